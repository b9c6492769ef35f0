// The weights of a softmax over a split, and how the results of splits are merged; see attention.cpp for the order.

#pragma once

#include <limits>

#include "attention_keys.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// A lane or query that has seen nothing has no largest score; any number serves it.
inline F32 finite(F32 largest) { return choose(less(all(kHidden), largest), largest, zero()); }

#ifdef __AVX512F__
inline F32 floor(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
#else
inline F32 floor(F32 a) { return {_mm256_floor_ps(a.lo), _mm256_floor_ps(a.hi)}; }
#endif

// A constant that stays in a register: the compiler would rather read it from memory at every use.
inline F32 held(float x) {
    F32 value = all(x);
#ifdef __AVX512F__
    asm volatile("" : "+v"(value.v));
#endif
    return value;
}

// 2^x, of which the high half of the bits is the weight: rounded to bf16, ties away from zero. 0 below -126, -inf included;
// exact for whole x; NaN stays NaN. 2^floor(x) times a polynomial of the rest, of degree 3 with a relative error of 2^-13.7;
// bf16 has 8 bits. The rest lies in [0, 1), so that half a unit of bf16's last place is the same number wherever it lies, and
// the polynomial's constant can contain it: what is cut off then has been rounded.
struct WeightOf {
    F32 c3 = held(0x1.3f96a4p-4f), c2 = held(0x1.cefc4cp-3f), c1 = held(0x1.64444cp-1f), c0 = held(0x1.00fb1ap0f);

    F32 operator()(F32 x) const {
#ifdef __AVX512F__
        F32 part = {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
        return {_mm512_scalef_ps(polynomial(part).v, x.v)};
#else
        x = max(all(-160.0f), x);  // the limit comes first: NaN passes
        F32 whole = floor(x);
        F32 part = x - whole;
        // One unit less where that was rounded up: AVX-512 rounds it down.
        part = as_float(as_int(part) - choose(less(x, part + whole), all(1), all(0)));
        F32 power = as_float(shift_left<23>(to_int(whole) + all(127 + 64)));  // twice, lest the exponent run out
        return polynomial(part) * power * all(0x1p-64f);
#endif
    }

  private:
    F32 polynomial(F32 x) const { return fma(fma(fma(c3, x, c2), x, c1), x, c0); }
};

// The weight itself, as a number.
inline F32 rounded(F32 weight) { return as_float(as_int(weight) & all(int32_t(0xffff0000))); }

// A span, and what each of 16 queries sees of it: null stands for all.
struct View {
    const Span *span;
    const uint32_t *seen;
};

// What a tile has gathered over some splits: by query the largest score, rounded down, the sum of weights and the weighted
// values.
struct Part {
    float *largest, *sum;  // [16]
    float *values;         // [16][width] or [width][16], as `Products` has it

    static int64_t floats(int width) { return (2 + width) * kLanes; }
    Part(float *memory) : largest(memory), sum(memory + kLanes), values(memory + 2 * kLanes) {}
};

// Everything but the values. Those of `total` are to be multiplied by `keep` and added to those of `next` times `add`.
inline void merge(const Part &total, const Part &next, F32 &keep, F32 &add) {
    F32 before = load(total.largest), after = load(next.largest), largest = max(before, after);
    keep = exp2(before - finite(largest));
    add = exp2(after - finite(largest));
    store(total.largest, largest);
    store(total.sum, fma(load(total.sum), keep, load(next.sum) * add));
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

// What the sums of weighted values are multiplied by at the end.
inline F32 share_of_one(const Part &part) {
    F32 sum = load(part.sum);
    return all(1.0f) / choose(less(zero(), sum), sum, all(1.0f));
}

}  // namespace tiercel::TIERCEL_LEVEL
