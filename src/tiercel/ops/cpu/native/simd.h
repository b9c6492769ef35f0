// Vectors of 16 lanes, whatever the registers: one of AVX-512 or two of AVX2. Kernels are written once on top of this file and
// compiled once per instruction set, each time in a namespace of its own (TIERCEL_LEVEL = avx2, avx512 or amx, by the build).
//
// Both halves of the file give the same bits: every operation is one IEEE operation per lane, products are fused only where
// `fma` says so (the build turns contraction off), and the orders of sums over lanes are written down here.

#pragma once

#include <immintrin.h>

#include <cstdint>

#ifndef TIERCEL_LEVEL
#define TIERCEL_LEVEL avx2  // for editors
#endif

namespace tiercel::TIERCEL_LEVEL {

constexpr int kLanes = 16;

#ifdef __AVX512F__

struct F32 {
    __m512 v;
};
struct I32 {
    __m512i v;
};
struct Mask {
    __mmask16 v;
};

inline F32 zero() { return {_mm512_setzero_ps()}; }
inline F32 all(float x) { return {_mm512_set1_ps(x)}; }
inline F32 load(const float *p) { return {_mm512_loadu_ps(p)}; }
inline void store(float *p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }   // a * b + c
inline F32 fnma(F32 a, F32 b, F32 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a * b
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is NaN
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
inline F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
inline F32 round(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline I32 all(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I32 load(const int32_t *p) { return {_mm512_loadu_si512(p)}; }
inline void store(int32_t *p, I32 a) { _mm512_storeu_si512(p, a.v); }
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 operator-(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I32 operator*(I32 a, I32 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I32 operator&(I32 a, I32 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I32 operator|(I32 a, I32 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int bits> inline I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, bits)}; }
template <int bits> inline I32 shift_right(I32 a) { return {_mm512_srli_epi32(a.v, bits)}; }  // zeros come in

inline F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32 to_int(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }  // to nearest even
inline F32 as_float(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
inline I32 as_int(F32 a) { return {_mm512_castps_si512(a.v)}; }

inline Mask less(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask is_nan(F32 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask less(I32 a, I32 b) { return {_mm512_cmplt_epi32_mask(a.v, b.v)}; }
inline F32 choose(Mask m, F32 yes, F32 no) { return {_mm512_mask_blend_ps(m.v, no.v, yes.v)}; }
inline I32 choose(Mask m, I32 yes, I32 no) { return {_mm512_mask_blend_epi32(m.v, no.v, yes.v)}; }

inline F32 load_f16(const uint16_t *p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))}; }
inline I32 load_u8(const uint8_t *p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))}; }
inline I32 load_s8(const int8_t *p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))}; }
inline I32 load_u16(const uint16_t *p) {
    return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}
// The low halves of lanes whose values fit 16 bits; the low bytes of lanes whose values fit 8.
inline void store_u16(uint16_t *p, I32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(a.v));
}
inline void store_s8(int8_t *p, I32 a) { _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(a.v)); }

// Lanes i and i + 8 are added first: the order of every sum over lanes.
inline __m256 low_plus_high(F32 a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
}

#else  // AVX2 + FMA + F16C: two registers

struct F32 {
    __m256 lo, hi;
};
struct I32 {
    __m256i lo, hi;
};
struct Mask {
    __m256 lo, hi;
};

inline F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float *p, F32 a) { _mm256_storeu_ps(p, a.lo), _mm256_storeu_ps(p + 8, a.hi); }
inline F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32 abs(F32 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline F32 sqrt(F32 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline F32 round(F32 a) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}

inline I32 all(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline __m256i load_half(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline __m128i load_quarter(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }
inline I32 load(const int32_t *p) { return {load_half(p), load_half(p + 8)}; }
inline void store(int32_t *p, I32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), a.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 8), a.hi);
}
inline I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I32 operator-(I32 a, I32 b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
inline I32 operator*(I32 a, I32 b) { return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
inline I32 operator&(I32 a, I32 b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
inline I32 operator|(I32 a, I32 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int bits> inline I32 shift_left(I32 a) { return {_mm256_slli_epi32(a.lo, bits), _mm256_slli_epi32(a.hi, bits)}; }
template <int bits> inline I32 shift_right(I32 a) { return {_mm256_srli_epi32(a.lo, bits), _mm256_srli_epi32(a.hi, bits)}; }

inline F32 to_float(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32 to_int(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline F32 as_float(I32 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline I32 as_int(F32 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }

inline Mask less(F32 a, F32 b) { return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)}; }
inline Mask is_nan(F32 a) { return {_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)}; }
inline Mask less(I32 a, I32 b) {
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.lo, a.lo)), _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.hi, a.hi))};
}
inline F32 choose(Mask m, F32 yes, F32 no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}
inline I32 choose(Mask m, I32 yes, I32 no) { return as_int(choose(m, as_float(yes), as_float(no))); }

inline F32 load_f16(const uint16_t *p) { return {_mm256_cvtph_ps(load_quarter(p)), _mm256_cvtph_ps(load_quarter(p + 8))}; }
inline I32 load_u8(const uint8_t *p) {
    __m128i x = load_quarter(p);
    return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
inline I32 load_s8(const int8_t *p) {
    __m128i x = load_quarter(p);
    return {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
}
inline I32 load_u16(const uint16_t *p) {
    return {_mm256_cvtepu16_epi32(load_quarter(p)), _mm256_cvtepu16_epi32(load_quarter(p + 8))};
}
inline void store_u16(uint16_t *p, I32 a) {
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), packed);
}
inline void store_s8(int8_t *p, I32 a) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), bytes);
}

inline __m256 low_plus_high(F32 a) { return _mm256_add_ps(a.lo, a.hi); }

#endif

// Sum over lanes: i and i + 8, then i and i + 4, i + 2, i + 1.
inline float sum(F32 a) {
    __m256 eight = low_plus_high(a);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline F32 load_bf16(const uint16_t *p) { return as_float(shift_left<16>(load_u16(p))); }

// To bf16, ties to even; NaN stays NaN. In the low half of each lane.
inline I32 to_bf16(F32 a) {
    I32 bits = as_int(a);
    I32 even = shift_right<16>(bits) & all(1);
    I32 rounded = shift_right<16>(bits + all(0x7fff) + even);
    return choose(is_nan(a), all(0x7fc0), rounded);
}
inline void store_bf16(uint16_t *p, F32 a) { store_u16(p, to_bf16(a)); }

// 2^x: 2^round(x) times a minimax polynomial of the rest. Within 0.8 units in the last place over [-126, 127]; below -126, -inf
// included, 0 (denormals are flushed); above 127.5 +inf; NaN stays NaN. Exact for whole x.
inline F32 exp2(F32 x) {
    x = min(all(128.0f), max(all(-127.0f), x));  // the limits come first: NaN passes
    F32 whole = round(x);
    F32 part = x - whole;  // exact, in [-0.5, 0.5]
    F32 p = all(0x1.416b6p-13f);  // of degree 6, relative error 2^-28.3 before rounding
    p = fma(p, part, all(0x1.5f082ep-10f));
    p = fma(p, part, all(0x1.3b2dep-7f));
    p = fma(p, part, all(0x1.c6af7cp-5f));
    p = fma(p, part, all(0x1.ebfbdcp-3f));
    p = fma(p, part, all(0x1.62e43p-1f));
    p = fma(p, part, all(1.0f));
    return p * as_float(shift_left<23>(to_int(whole) + all(127)));  // exponents 0 = 0 and 255 = inf at the limits
}

constexpr float kLog2E = 1.44269504f;

}  // namespace tiercel::TIERCEL_LEVEL
