// One row of a packed matrix as float32, for embeddings and for reading weights back.

#pragma once

#include <cstdint>

#include "api.h"

namespace tiercel {

// out: [matrix.columns]. Values are those of the format's definition (packing.h), with one rounding per operation.
void unpack_row(const tiercel_matrix &matrix, int64_t row, float *out);

}  // namespace tiercel
