// What products of int8 by lanes and by tiles share.

#pragma once

#include "activations.h"
#include "linear.h"

namespace tiercel::TIERCEL_LEVEL {

inline I8Rows rows_of(const Linear &job, int64_t columns) { return {const_cast<uint8_t *>(job.x_i8), job.rows, columns}; }

inline F32 scales_of(const Panels &run, int64_t panel) {
    return load(reinterpret_cast<const float *>(run.data(panel + 1) - kPanelScaleBytes));
}

// The results of one row and panel.
inline void finish_sums(const Linear &job, int64_t row, int64_t channel, int64_t count, F32 scale_w, float scale_x, I32 sums) {
    finish(job, row, channel, count, to_float(sums) * (scale_w * all(scale_x)));
}

}  // namespace tiercel::TIERCEL_LEVEL
