#include "pool.h"
extern "C" void tiercel_sample(tiercel_pool *, const float *, int64_t, int32_t, int32_t, const tiercel_sampling *, int32_t *) {}
