// Rotation by a Hadamard matrix: x times H / sqrt(n), with H[i][j] = -1 to the number of ones that i and j have in common
// (Sylvester's matrix). It is symmetric and its own inverse, keeps products of vectors as they are, and spreads a value that
// stands out over all others, so that few bits lose less (QuaRot, https://arxiv.org/abs/2404.00456).
//
// Order of arithmetic: for h = n / 2, n / 4 ... 1 each pair (i, i + h) becomes (a + b, a - b); then all times 1 / sqrt(n),
// rounded to float32.

#pragma once

#include <cmath>

#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

// Lane i gets lane i ^ distance.
template <int distance> inline F32 swap_lanes(F32 a) {
    static_assert(distance == 8 || distance == 4 || distance == 2 || distance == 1);
    constexpr int within = distance == 2 ? 0x4e : 0xb1;
#ifdef __AVX512F__
    if constexpr (distance == 8) return {_mm512_shuffle_f32x4(a.v, a.v, 0x4e)};
    if constexpr (distance == 4) return {_mm512_shuffle_f32x4(a.v, a.v, 0xb1)};
    return {_mm512_permute_ps(a.v, within)};
#else
    if constexpr (distance == 8) return {a.hi, a.lo};
    if constexpr (distance == 4) return {_mm256_permute2f128_ps(a.lo, a.lo, 1), _mm256_permute2f128_ps(a.hi, a.hi, 1)};
    return {_mm256_permute_ps(a.lo, within), _mm256_permute_ps(a.hi, within)};
#endif
}

// One step within a register: lanes with the bit `distance` get other - own, the rest own + other.
template <int distance> inline F32 step_within(F32 a) {
    alignas(64) static constexpr auto kSigns = [] {
        struct {
            float of[kLanes];
        } signs{};
        for (int i = 0; i < kLanes; i++) signs.of[i] = i & distance ? -1.0f : 1.0f;
        return signs;
    }();
    return fma(a, load(kSigns.of), swap_lanes<distance>(a));  // the product is exact
}

#ifdef __AVX512F__
constexpr int kHeld = 16;  // vectors that registers hold beside what a step needs
#else
constexpr int kHeld = 4;
#endif

// The steps over `count` vectors, all in registers, and the scale.
template <int count> inline void rotate_held(float *x, F32 scale) {
    F32 a[count];
    for (int i = 0; i < count; i++) a[i] = load(x + i * kLanes);
#pragma GCC unroll 4
    for (int h = count / 2; h > 0; h /= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < count; i++) {
            if (i & h) continue;
            const F32 sum = a[i] + a[i + h];
            a[i + h] = a[i] - a[i + h];
            a[i] = sum;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; i++) {
        a[i] = step_within<8>(a[i]);
        a[i] = step_within<4>(a[i]);
        a[i] = step_within<2>(a[i]);
        a[i] = step_within<1>(a[i]);
        store(x + i * kLanes, a[i] * scale);
    }
}

// Rotates x [n] in place. n: a power of two, at least 16. Steps over long distances go through memory.
template <int held = kHeld> inline void rotate(float *x, int64_t n) {
    if constexpr (held > 1) {
        if (n < held * kLanes) return rotate<held / 2>(x, n);
    }
    for (int64_t h = n / 2; h >= held * kLanes; h /= 2) {
        for (int64_t start = 0; start < n; start += 2 * h) {
            for (int64_t i = start; i < start + h; i += kLanes) {
                const F32 a = load(x + i), b = load(x + i + h);
                store(x + i, a + b);
                store(x + i + h, a - b);
            }
        }
    }
    const F32 scale = all(1.0f / std::sqrt(float(n)));
    for (int64_t i = 0; i < n; i += held * kLanes) rotate_held<held>(x + i, scale);
}

// Channels that are rotated together: the largest power of two that divides them, up to 512. Mixing all of a row is worse: a
// channel that stands far out in a few rows would then cost all others their resolution.
inline int64_t rotation_run(int64_t channels) {
    const int64_t power = channels & -channels;
    return power < 512 ? power : 512;
}

// Rotates a row by such runs; runs shorter than a register stay as they are. Twice is back again.
inline void rotate_row(float *row, int64_t channels) {
    const int64_t run = rotation_run(channels);
    if (run < kLanes) return;
    for (int64_t at = 0; at < channels; at += run) rotate(row + at, run);
}

}  // namespace tiercel::TIERCEL_LEVEL
