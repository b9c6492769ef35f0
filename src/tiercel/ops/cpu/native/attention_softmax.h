// The softmax of one query over a split, and how the results of splits are merged.

#pragma once

#include <limits>

#include "attention_keys.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// A lane or query that has seen nothing has no largest score; any number serves it.
inline F32 finite(F32 largest) { return choose(less(all(kHidden), largest), largest, zero()); }

inline float max_of_lanes(F32 a) {
#ifdef __AVX512F__
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
#else
    __m256 eight = _mm256_max_ps(a.lo, a.hi);
#endif
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// Lane i where bit i of the low half of `bits` is set.
inline Mask lanes_of(uint32_t bits) {
    alignas(64) static constexpr int32_t kBits[kLanes] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                                          1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    return less(all(0), load(kBits) & all(int32_t(bits & 0xffff)));
}

// 2^x for x <= 0, rounded to bf16, ties away from zero; 0 below -127, -inf included. Exact for whole x. A polynomial of degree
// 4 does, with a relative error of 2^-18: bf16 has 8 bits. (`exp2` is for numbers that stay float32.)
inline F32 weight_of(F32 x) {
    constexpr float kMagic = 0x1.8p23f + 127;  // added to x, leaves round(x) + 127 in the low bits
    x = max(all(-127.0f), x);                  // the limit comes first: NaN passes
    F32 shifted = x + all(kMagic);
    F32 part = x - (shifted - all(kMagic));    // exact, in [-0.5, 0.5]
    F32 p = all(0x1.3a02ccp-7f);
    p = fma(p, part, all(0x1.c9fc46p-5f));
    p = fma(p, part, all(0x1.ec0378p-3f));
    p = fma(p, part, all(0x1.62e12cp-1f));
    p = fma(p, part, all(1.0f));
    p = p * as_float(shift_left<23>(as_int(shifted)));  // exponent 0 = 0 at the limit
    return as_float((as_int(p) + all(0x8000)) & all(int32_t(0xffff0000)));
}

// What one query sees of a span.
struct Sight {
    int column;    // the span's place in the split, in positions
    uint32_t seen;
};

// Scores of a query over a split, [256], become weights, which put(column, first 16, last 16) takes for each span. `largest`
// and the result, the sum of weights, are as attention.cpp says.
template <class Put>
inline float weigh(float *scores, const Sight *sights, int count, F32 factor, float &largest, Ahead &ahead, Put put) {
    F32 most = all(kHidden);
    for (int i = 0; i < count; i++) {
        float *span = scores + sights[i].column;
        F32 first = load(span) * factor, last = load(span + kLanes) * factor;
        if (sights[i].seen != ~0u) {
            first = choose(lanes_of(sights[i].seen), first, all(kHidden));
            last = choose(lanes_of(sights[i].seen >> 16), last, all(kHidden));
        }
        store(span, first);
        store(span + kLanes, last);
        most = max(max(first, last), most);
        ahead.lines<1>();
    }
    largest = max_of_lanes(most);
    const F32 base = finite(all(largest));
    F32 total = zero();
    for (int i = 0; i < count; i++) {
        const float *span = scores + sights[i].column;
        F32 first = weight_of(load(span) - base), last = weight_of(load(span + kLanes) - base);
        put(sights[i].column, first, last);
        ahead.lines<1>();
        total = (total + first) + last;
    }
    return sum(total);
}

// What a tile has gathered over some splits: by query the largest score, the sum of weights and the weighted values.
struct Part {
    float *largest, *sum;  // [16]
    float *values;         // [16][width]

    static int64_t floats(int width) { return (2 + width) * kLanes; }
    Part(float *memory) : largest(memory), sum(memory + kLanes), values(memory + 2 * kLanes) {}
};

inline void clear(const Part &part, int width) {
    store(part.largest, all(kHidden));
    for (int i = 0; i <= width; i++) store(part.sum + i * kLanes, zero());
}

inline void merge(const Part &total, const Part &next, int queries, int width) {
    F32 before = load(total.largest), after = load(next.largest), largest = max(before, after);
    alignas(64) float keep[kLanes], add[kLanes];
    F32 old = exp2(before - finite(largest)), fresh = exp2(after - finite(largest));
    store(total.largest, largest);
    store(total.sum, fma(load(total.sum), old, load(next.sum) * fresh));
    store(keep, old);
    store(add, fresh);
    for (int query = 0; query < queries; query++) {
        F32 a = all(keep[query]), b = all(add[query]);
        float *to = total.values + query * width;
        const float *from = next.values + query * width;
        for (int d = 0; d < width; d += kLanes) store(to + d, fma(load(to + d), a, load(from + d) * b));
    }
}

// ln of a normal number: x = 2^e * m with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)).
inline F32 log(F32 x) {
    constexpr float kLn2 = 0.693147181f;
    constexpr int32_t kRoot = 0x3f3504f3;  // sqrt(1/2)
    I32 bits = as_int(x) - all(kRoot);
    I32 exponent = shift_right<23>(bits + all(127 << 23)) - all(127);
    F32 m = as_float((bits & all(0x7fffff)) + all(kRoot));
    F32 t = (m - all(1.0f)) / (m + all(1.0f)), square = t * t;
    F32 series = all(2.0f / 9);
    for (float term : {2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f}) series = fma(series, square, all(term));
    return fma(to_float(exponent), all(kLn2), series * t);
}

// The log of each query's softmax denominator; -inf where nothing was seen.
inline F32 log_sum_exp(const Part &part) {
    constexpr float kLn2 = 0.693147181f;
    F32 largest = load(part.largest), sum = max(load(part.sum), all(1.0f));  // what has a largest score sums to at least 1
    return choose(less(all(kHidden), largest), fma(largest, all(kLn2), log(sum)), all(kHidden));
}

}  // namespace tiercel::TIERCEL_LEVEL
