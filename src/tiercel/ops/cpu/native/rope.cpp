// Rotary position embedding: pairs of channels of every head are turned by their row's angles.
//
// Order of arithmetic, one rounding per operation and nothing fused: first * cos - second * sin, second * cos + first * sin.

#include "kernels.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

// Pairs (0, half), (1, half + 1), ... of one head. out may be x: a pair is read before it is written.
void rotate_halves(const float *x, const float *cos, const float *sin, int64_t half, float *out) {
    int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
        const F32 first = load(x + i), second = load(x + half + i), c = load(cos + i), s = load(sin + i);
        store(out + i, first * c - second * s);
        store(out + half + i, second * c + first * s);
    }
    for (; i < half; i++) {
        const float first = x[i], second = x[half + i];
        out[i] = first * cos[i] - second * sin[i];
        out[half + i] = second * cos[i] + first * sin[i];
    }
}

// Pairs (0, 1), (2, 3), ... of one head.
void rotate_neighbours(const float *x, const float *cos, const float *sin, int64_t half, float *out) {
    for (int64_t i = 0; i < half; i++) {
        const float first = x[2 * i], second = x[2 * i + 1];
        out[2 * i] = first * cos[i] - second * sin[i];
        out[2 * i + 1] = second * cos[i] + first * sin[i];
    }
}

}  // namespace

void rope(const Rope &job, const Worker &worker) {
    const int64_t half = job.head_dim / 2;
    auto *rotate = job.interleaved ? rotate_neighbours : rotate_halves;
    int64_t first, last;
    worker.share(job.rows, first, last);
    for (int64_t row = first; row < last; row++) {
        const float *cos = job.cos + job.positions[row] * half, *sin = job.sin + job.positions[row] * half;
        for (int64_t at = 0; at < job.channels; at += job.head_dim) {
            rotate(job.x + row * job.stride + at, cos, sin, half, job.out + row * job.stride_out + at);
        }
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
