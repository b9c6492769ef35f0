// Rows of keys and values as the arena holds them: written by kv_write.cpp, read by attention.
//
//   bf16  each value to nearest even.
//   int8  scale = largest magnitude / 127 (float32), integers round(x / scale), ties to even; a scale that would be smaller
//         than the smallest normal float32 is 0, with zeros as integers. Read: float(integer) * scale, rounded to bf16.
//   int4  per run of 32 channels scale = magnitude / 8, rounded to fp16 (to nearest even, at most the largest fp16), where the
//         magnitude is the largest of the run and the scale negative if a positive value has it: -8 stands for that value, so
//         that all 16 numbers are of use. Integers round(x / scale), ties to even, within -8 .. 7, zeros where the scale is 0.
//         Byte j of a run holds 8 + the integer of channel j in its low half and 8 + that of channel 16 + j in its high half.
//         Read: float(integer) * float(scale), rounded to bf16.
//
// A row (int8) or a run (int4) that holds an infinity or NaN has a NaN scale and zeros as integers, and is read as NaN.

#pragma once

#include <bit>
#include <cfloat>
#include <cstring>

#include "api.h"
#include "emit.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

constexpr int kRun = 32;          // values that share a scale in int4
constexpr int kMaxHeadDim = 256;  // of formats with scales, in whole runs
constexpr int kMaxRows = 32;      // that are read at once

// What a row takes in a segment, which holds the values of all tokens and then their scales.
struct KVRow {
    int64_t value_bytes, scale_bytes;

    explicit KVRow(const tiercel_group &group) : value_bytes(group.head_dim * int64_t(sizeof(uint16_t))), scale_bytes(0) {
        if (group.kv_format == TIERCEL_KV_INT8) value_bytes = group.head_dim, scale_bytes = sizeof(float);
        if (group.kv_format == TIERCEL_KV_INT4) value_bytes = group.head_dim / 2, scale_bytes = group.head_dim / kRun * 2;
    }
    int64_t segment_bytes(int64_t tokens) const { return tokens * (value_bytes + scale_bytes); }
};

// -- writing ---------------------------------------------------------------------------------------------------------------

// The largest magnitude of values, as bits: see `largest`.
inline float largest_magnitude(const float *row, int64_t count) {
    I32 most = all(0);
    for (int64_t i = 0; i < count; i += kLanes) {
        const I32 bits = as_int(abs(load(row + i)));
        most = choose(less(most, bits), bits, most);
    }
    return std::bit_cast<float>(largest(most));
}

inline void encode_int8(const float *row, int64_t head_dim, uint8_t *values, uint8_t *scales) {
    const float magnitude = largest_magnitude(row, head_dim);
    const bool finite = magnitude <= FLT_MAX;
    float scale = magnitude / 127.0f;
    const bool kept = finite && scale >= FLT_MIN;
    if (!kept) scale = finite ? 0.0f : std::bit_cast<float>(0x7fc00000);
    for (int64_t i = 0; i < head_dim; i += kLanes) {
        const F32 whole = kept ? round(load(row + i) / all(scale)) : zero();
        store_s8(reinterpret_cast<int8_t *>(values + i), to_int(whole));
    }
    std::memcpy(scales, &scale, sizeof scale);
}

inline void encode_int4_run(const float *run, uint8_t *bytes, uint8_t *scale_bytes) {
    constexpr float kLargestF16 = 65504.0f;
    constexpr uint16_t kNan = 0x7e00, kSign = 0x8000;
    const float magnitude = largest_magnitude(run, kRun);
    const bool finite = magnitude <= FLT_MAX;
    const I32 most = as_int(max(max(load(run), load(run + kLanes)), zero()));
    const bool positive = std::bit_cast<float>(largest(most)) == magnitude;
    const float wanted = magnitude / 8.0f;
    const uint16_t rounded = _cvtss_sh(wanted < kLargestF16 ? wanted : kLargestF16, _MM_FROUND_TO_NEAREST_INT);
    const uint16_t stored = !finite ? kNan : positive ? rounded | kSign : rounded;
    const bool kept = finite && rounded != 0;
    const F32 scale = all(_cvtsh_ss(stored)), low = all(-8.0f), high = all(7.0f);
    auto codes = [&](const float *x) {
        const F32 whole = kept ? round(load(x) / scale) : zero();
        return to_int(max(min(whole, high), low)) + all(8);
    };
    const I32 both = codes(run) | shift_left<4>(codes(run + kLanes));
    store_s8(reinterpret_cast<int8_t *>(bytes), both - shift_left<1>(both & all(128)));  // the same byte, as a signed number
    std::memcpy(scale_bytes, &stored, sizeof stored);
}

// -- reading ---------------------------------------------------------------------------------------------------------------

// Bits whose high halves are the lanes rounded to bf16: a NaN here is the standard one, which stays as it is.
inline I32 round_high(F32 a) {
    const I32 bits = as_int(a);
    return bits + all(0x7fff) + (shift_right<16>(bits) & all(1));
}

#ifdef __AVX512F__

// What a permutation of 32 words or 32 times two bytes takes.
struct Indices {
    uint16_t words[2 * kLanes];
};
template <class Index> constexpr Indices make_indices(Index index) {
    Indices made{};
    for (int i = 0; i < 2 * kLanes; i++) made.words[i] = uint16_t(index(i));
    return made;
}

// Two registers as one of bf16.
inline __m512i join_rounded(F32 first, F32 last) {
#ifdef __AVX512BF16__
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(last.v, first.v));  // rounds to nearest even, too
#else
    alignas(64) static constexpr auto kHighHalves = make_indices([](int i) { return 2 * i + 1; });
    const __m512i index = _mm512_load_si512(kHighHalves.words);
    return _mm512_permutex2var_epi16(round_high(first).v, index, round_high(last).v);
#endif
}

inline void store_rounded(uint16_t *to, F32 first, F32 last) { _mm512_storeu_si512(to, join_rounded(first, last)); }

#else

inline void store_rounded(uint16_t *to, F32 first, F32 last) {
    store_u16(to, shift_right<16>(round_high(first)));
    store_u16(to + kLanes, shift_right<16>(round_high(last)));
}

#endif

inline void decode_int8(const uint8_t *values, const uint8_t *scales, int64_t head_dim, int64_t rows, uint16_t *to) {
    for (int64_t row = 0; row < rows; row++, values += head_dim, to += head_dim) {
        float number;
        std::memcpy(&number, scales + row * int64_t(sizeof number), sizeof number);
        const F32 scale = all(number);
        for (int64_t i = 0; i < head_dim; i += kRun) {
            const auto *from = reinterpret_cast<const int8_t *>(values + i);
            store_rounded(to + i, to_float(load_s8(from)) * scale, to_float(load_s8(from + kLanes)) * scale);
        }
    }
}

inline void decode_int4(const uint8_t *values, const uint8_t *scales, int64_t head_dim, int64_t rows, uint16_t *to) {
    const auto *halves = reinterpret_cast<const uint16_t *>(scales);
#ifdef __AVX512F__
    // A run has 16 numbers. They make a table, twice over, and each channel looks up its own: bit 4 of an index is any.
    alignas(64) static constexpr float kNumbers[kLanes] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    alignas(64) static constexpr auto kByte = make_indices([](int i) { return i % kLanes; });
    alignas(64) static constexpr auto kShift = make_indices([](int i) { return i / kLanes * 4; });
    const __m512i byte = _mm512_load_si512(kByte.words), shift = _mm512_load_si512(kShift.words);
    const F32 numbers = load(kNumbers);
    const int64_t runs = rows * head_dim / kRun;
    alignas(64) float wide[kMaxRows * kMaxHeadDim / kRun];
    for (int64_t i = 0; i < runs; i += kLanes) {
        const auto there = __mmask16(runs - i < kLanes ? (1 << (runs - i)) - 1 : 0xffff);
        store(wide + i, {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, halves + i))});
    }
    for (int64_t i = 0; i < runs; i++) {
        const F32 number = numbers * all(wide[i]);
        const __m512i table = join_rounded(number, number);
        const auto *codes = reinterpret_cast<const __m128i *>(values + i * kRun / 2);
        const __m512i spread = _mm512_permutexvar_epi8(byte, _mm512_castsi128_si512(_mm_loadu_si128(codes)));
        _mm512_storeu_si512(to + i * kRun, _mm512_permutexvar_epi16(_mm512_srlv_epi16(spread, shift), table));
    }
#else
    for (int64_t run = 0; run < rows * head_dim / kRun; run++) {
        const F32 scale = all(_cvtsh_ss(halves[run]));
        const I32 codes = load_u8(values + run * kRun / 2);
        const F32 low = to_float((codes & all(15)) - all(8)), high = to_float(shift_right<4>(codes) - all(8));
        store_rounded(to + run * kRun, low * scale, high * scale);
    }
#endif
}

// Rows that lie one after the other to bf16 [rows][head_dim].
inline void decode_rows(const tiercel_group &group, const uint8_t *values, const uint8_t *scales, int64_t rows, uint16_t *to) {
    const int64_t size = group.head_dim;
    switch (group.kv_format) {
        case TIERCEL_KV_INT8: decode_int8(values, scales, size, rows, to); break;
        case TIERCEL_KV_INT4: decode_int4(values, scales, size, rows, to); break;
        default: std::memcpy(to, values, rows * size * sizeof(uint16_t));
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
