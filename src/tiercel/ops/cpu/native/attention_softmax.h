// The softmax of a tile: lanes are queries, so everything here is vertical and no lane knows of another.

#pragma once

#include <limits>

#include "attention_keys.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// Scores of a span [32][16] become s * factor. Returns each lane's largest so far.
inline F32 scale_scores(float *scores, F32 factor, F32 largest) {
    for (int key = 0; key < kSpan; key++) {
        F32 scaled = load(scores + key * kLanes) * factor;
        store(scores + key * kLanes, scaled);
        largest = max(scaled, largest);
    }
    return largest;
}

// The same where lane i sees key k only if bit k of seen[i] is set.
inline F32 scale_scores(float *scores, F32 factor, F32 largest, const int32_t *seen) {
    I32 bits = load(seen);
    for (int key = 0; key < kSpan; key++) {
        F32 scaled = load(scores + key * kLanes) * factor;
        scaled = choose(less(all(0), bits & all(1)), scaled, all(kHidden));
        store(scores + key * kLanes, scaled);
        largest = max(scaled, largest);
        bits = shift_right<1>(bits);
    }
    return largest;
}

// A lane that has seen nothing has no largest score; any number serves it.
inline F32 finite(F32 largest) { return choose(less(all(kHidden), largest), largest, zero()); }

inline F32 round_to_bf16(F32 a) {
    I32 bits = as_int(a);
    I32 even = shift_right<16>(bits) & all(1);
    return as_float((bits + all(0x7fff) + even) & all(int32_t(0xffff0000)));
}

// Scores become weights 2^(score - largest), rounded to bf16. Adds them to `sum`, in order of keys.
inline F32 weigh(float *scores, F32 largest, F32 sum) {
    for (int key = 0; key < kSpan; key++) {
        F32 weight = round_to_bf16(exp2(load(scores + key * kLanes) - largest));
        store(scores + key * kLanes, weight);
        sum = sum + weight;
    }
    return sum;
}

// What a tile has gathered over some splits: per lane the largest score, the sum of weights and the weighted values.
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

inline void merge(const Part &total, const Part &next, int lanes, int width) {
    F32 before = load(total.largest), after = load(next.largest), largest = max(before, after);
    alignas(64) float keep[kLanes], add[kLanes];
    F32 old = exp2(before - finite(largest)), fresh = exp2(after - finite(largest));
    store(total.largest, largest);
    store(total.sum, fma(load(total.sum), old, load(next.sum) * fresh));
    store(keep, old);
    store(add, fresh);
    for (int lane = 0; lane < lanes; lane++) {
        F32 a = all(keep[lane]), b = all(add[lane]);
        float *to = total.values + lane * width;
        const float *from = next.values + lane * width;
        for (int d = 0; d < width; d += kLanes) store(to + d, fma(load(to + d), a, load(from + d) * b));
    }
}

// ln of a normal number: x = 2^e * m with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)).
inline F32 log(F32 x) {
    constexpr float kLn2 = 0.693147181f;
    I32 bits = as_int(x) - all(0x3f3504f3);  // sqrt(1/2)
    I32 exponent = shift_right<23>(bits + all(127 << 23)) - all(127);
    F32 m = as_float((bits & all(0x7fffff)) + all(0x3f3504f3));
    F32 t = (m - all(1.0f)) / (m + all(1.0f)), square = t * t;
    F32 series = all(2.0f / 9);
    for (float term : {2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f}) series = fma(series, square, all(term));
    return fma(to_float(exponent), all(kLn2), series * t);
}

// The log of each lane's softmax denominator; -inf where nothing was seen.
inline F32 log_sum_exp(const Part &part) {
    constexpr float kLn2 = 0.693147181f;
    F32 largest = load(part.largest);
    return choose(less(all(kHidden), largest), fma(largest, all(kLn2), log(max(load(part.sum), all(1.0f)))), all(kHidden));
}

}  // namespace tiercel::TIERCEL_LEVEL
