"""Our side: `FeedServer` in one process, the whole `Pipeline` in another."""

import asyncio
import time
from pathlib import Path

from benchmarks.runs import Meter, Plan, Report, parent_is_done, play, say
from benchmarks.source import in_memory
from quants import server
from quants.feed_server import FeedServer
from quants.pace import AS_FAST_AS_TAKEN
from quants.pipeline import Pipeline
from quants.settings import Settings


async def feed(plan: Plan) -> Report:
    """Publish the plan's ticks to the first subscriber."""
    source = in_memory(Path(plan.rows))
    rate = plan.tick_rate or AS_FAST_AS_TAKEN
    async with FeedServer(source, rate) as feed_server:
        say(feed_server.url)
        await feed_server.subscribed.wait()
        meter = Meter()
        await feed_server.publish(plan.ticks)
        await parent_is_done()
        seconds, cpu_seconds = meter.stop()
    return Report(ticks=feed_server.sent, seconds=seconds, cpu_seconds=cpu_seconds)


async def pump(plan: Plan) -> Report:
    """Run the pipeline behind a feed until it ends."""
    settings = Settings(
        feed_url=plan.url,
        wire=plan.wire,
        kernel=plan.kernel,
        cores=plan.cores,
        redis_url=plan.redis_url,
        log_file=Path(plan.log),
        metrics_port=plan.metrics_port,
    )
    if not plan.keep_bodies:
        server.KEEP_SECONDS = 0.0
    meter = Meter()
    pipeline = Pipeline(settings)
    watching = asyncio.create_task(meter.watch())
    await pipeline.run()
    _, cpu_seconds = meter.stop()
    watching.cancel()
    assert pipeline.first_tick is not None
    now, latency = pipeline.snapshot(), pipeline.vwap.latency
    alerts = pipeline.risk.summary().values()
    return Report(
        ticks=now.consumers["vwap"].processed,
        seconds=time.monotonic() - pipeline.first_tick,
        cpu_seconds=cpu_seconds,
        missing=now.gap_ticks + now.duplicates,
        breaches=sum(count.raised + count.suppressed for count in alerts),
        alerts=sum(count.delivered for count in alerts),
        sums={
            symbol.name: (sums.price_size, sums.size, sums.ticks)
            for symbol, sums in zip(
                pipeline.vwap.symbols, pipeline.vwap.sums(), strict=True
            )
        },
        p50=latency.quantile(0.5),
        p99=latency.quantile(0.99),
        rss=meter.rss,
    )


if __name__ == "__main__":
    play(feed, pump)
