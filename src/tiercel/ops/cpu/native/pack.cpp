#include "packing.h"
#include "pool.h"
extern "C" {
int64_t tiercel_packed_bytes(int32_t format, int32_t rows, int32_t columns) {
    if (tiercel::group_shape(format).columns == 0) return -1;
    return tiercel::panels(rows) * tiercel::panel_bytes(format, columns);
}
int32_t tiercel_pack(tiercel_pool *, int32_t, const uint8_t *, int32_t, int32_t, int32_t, uint8_t *) { return -1; }
void tiercel_unpack(const tiercel_matrix *, const int32_t *, int32_t, float *) {}
}
