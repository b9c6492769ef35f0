// A row as int8 with one scale: the form of I8 weights (packing.h) and of what they are multiplied by (activations.h).
//
// The row is rotated (hadamard.h). scale = largest magnitude / 127; integers = value * (127 / largest magnitude), rounded to
// nearest even, so that -128 never occurs. A scale that would be smaller than the smallest normal float32 is 0, with zeros as
// integers: the row is zero. A row that holds an infinity or NaN has a NaN scale and zeros as integers: whatever is computed
// from it is NaN.

#pragma once

#include <algorithm>
#include <bit>
#include <cfloat>

#include "hadamard.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

// The largest lane of values >= 0, compared as integers: so NaN is above infinity, and infinity above all else.
inline int32_t largest(I32 a) {
    alignas(64) int32_t lanes[kLanes];
    store(lanes, a);
    __m256i eight = _mm256_max_epi32(*reinterpret_cast<const __m256i *>(lanes), *reinterpret_cast<const __m256i *>(lanes + 8));
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

inline I32 larger(I32 a, I32 b) { return choose(less(a, b), b, a); }

constexpr int64_t kRowGroup = 64;  // channels, up to which a row is padded

inline int64_t padded_row(int64_t channels) { return (channels + kRowGroup - 1) / kRowGroup * kRowGroup; }

// Calls put(channel, integers) for each 16 channels of a row, those that pad it included, and returns the scale.
// row: [padded_row(channels)], of which the first `channels` count; it is working memory, and rotated afterwards.
template <typename Put> inline float quantise_row(float *row, int64_t channels, Put put) {
    const int64_t padded = padded_row(channels);
    rotate_row(row, channels);
    std::fill(row + channels, row + padded, 0.0f);
    I32 most[4] = {all(0), all(0), all(0), all(0)};
    for (int64_t at = 0; at < padded; at += kRowGroup) {
        for (int i = 0; i < 4; i++) most[i] = larger(most[i], as_int(abs(load(row + at + i * kLanes))));
    }
    const int32_t bits = largest(larger(larger(most[0], most[1]), larger(most[2], most[3])));
    const float magnitude = std::bit_cast<float>(bits), scale = magnitude / 127.0f;
    const bool finite = magnitude <= FLT_MAX;
    if (finite && scale >= FLT_MIN) {
        const F32 inverse = all(127.0f / magnitude);
        for (int64_t at = 0; at < padded; at += kLanes) put(at, to_int(load(row + at) * inverse));
        return scale;
    }
    for (int64_t at = 0; at < padded; at += kLanes) put(at, all(0));
    return finite ? 0.0f : std::bit_cast<float>(0x7fc00000);
}

}  // namespace tiercel::TIERCEL_LEVEL
