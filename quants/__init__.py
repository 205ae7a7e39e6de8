"""A market-data pump that teaches asyncio, the GIL, memory and measurement."""
