// Products by format. A call computes some panels of one part for all rows of the job; `linear.cpp` deals the panels out.

#pragma once

#include "kernels.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

// A run of panels of one part. channel: where the first panel's results stand in the job's result and bias.
struct Panels {
    const tiercel_matrix &part;
    int64_t first, last;
    int64_t channel;
};

void linear_bf16(const Linear &job, const Panels &panels, const Worker &worker);
void linear_quantised(const Linear &job, const Panels &panels, const Worker &worker);  // any other format

}  // namespace tiercel::TIERCEL_LEVEL
