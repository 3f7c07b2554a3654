"""The engine on Redis or Valkey: one script per verb, a run in a few keys, a client that never repeats by itself."""

from skep.engine.redis.engine import RedisEngine
from skep.engine.redis.epochs import current_epoch, open_epoch, sweep
from skep.engine.redis.store import RedisStore

__all__ = ["RedisEngine", "RedisStore", "current_epoch", "open_epoch", "sweep"]
