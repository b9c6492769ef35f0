"""Settings of an engine. Frozen; "auto" is resolved once, into a new object, by `engine.plan`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tiercel.config.disk import DiskPlace
from tiercel.config.model_cache import ModelCachePlace
from tiercel.config.sizes import parse_size
from tiercel.types import KVFormat

Size = Annotated[int, BeforeValidator(parse_size)]


class EngineConfig(BaseSettings):
    """What a user may choose. Every field can also be set by an environment variable: TIERCEL_MODEL, TIERCEL_KV_MEMORY, ..."""

    model_config = SettingsConfigDict(env_prefix="TIERCEL_", frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field("smollm2", description="alias, directory with safetensors, .gguf file, or Hugging Face id")
    backend: Literal["auto", "cpu", "reference"] = Field("auto", description="what computes: cpu = native, reference = torch")
    dtype: Literal["auto", "stored", "bf16", "int8", "int4", "float32"] = Field(
        "auto", description="format of weights: stored = as in the file, int8 and int4 are quantised at load"
    )
    isa: Literal["auto", "avx2", "avx512", "amx"] = Field("auto", description="instruction set of the cpu back end")
    kv_dtype: KVFormat | Literal["auto"] = Field("auto", description="format of the KV cache on the device")
    kv_memory: Size | Literal["auto"] = Field("auto", description="memory of the KV cache, e.g. 2GiB")
    max_model_len: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="longest context of a request, tokens"
    )
    max_num_seqs: int = Field(64, ge=1, le=4096, description="most requests that run at once")
    max_num_batched_tokens: int = Field(512, ge=1, description="token budget of one step")
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="threads that compute")
    prefix_caching: bool = Field(True, description="keep and reuse the KV of what was computed")
    kv_disk: DiskPlace = Field("auto", description="keep KV on disk: auto = in the user's cache folder, off, or PATH[:SIZE]")
    kv_disk_free: Annotated[Size, Field(ge=0)] = Field(2 << 30, description="leave at least this much of the disk free")
    kv_disk_touches: int = Field(1, ge=1, description="how often a block must be met before it is written to disk")
    kv_disk_min_tokens: int = Field(256, ge=0, description="shorter contexts are not written to disk")
    kv_disk_rate: Annotated[Size, Field(ge=1)] | Literal["unlimited"] = Field(
        "unlimited", description="most bytes per second written to disk"
    )
    model_cache: ModelCachePlace = Field(
        "auto", description="keep prepared models, for quick starts: auto = in the user's cache folder, off, or PATH"
    )
    tenant: str = Field("", description="salt that keeps this engine's cached blocks apart from other tenants'")
