// How products read each packed format (packing.h): for a run of 32 columns the unsigned bytes of 16 rows, and their scales.
//
// A format says
//   kRuns, kBytes     runs of 32 columns in a group, and a group's bytes
//   kBits, kZero      bits of a quant, and the quant that stands for 0
//   kFetched          bytes of memory that a run takes
//   kParts            scales per row and run: 1, or 2 of 16 columns each
//   kMinimum          whether there is a minimum as well
// and reads run `run` of the group at `group`.

#pragma once

#include "packing.h"
#include "simd.h"

namespace tiercel::TIERCEL_LEVEL {

// Column quads 0 - 7 of a run: byte (row, i) of quads[j] is column 4j + i.
struct Quads {
    I32 quad[8];
};

inline I32 load_bytes(const uint8_t *p) { return load(reinterpret_cast<const int32_t *>(p)); }
inline F32 load_halves(const uint8_t *p) { return load_f16(reinterpret_cast<const uint16_t *>(p)); }

inline Quads read_nibbles(const uint8_t *p) {
    Quads q;
    for (int j = 0; j < 4; j++) {
        I32 packed = load_bytes(p + 64 * j);
        q.quad[j] = packed & all(0x0f0f0f0f);
        q.quad[4 + j] = shift_right<4>(packed) & all(0x0f0f0f0f);
    }
    return q;
}

template <int32_t format> struct Shape {
    static constexpr int kBytes = group_shape(format).bytes, kRuns = group_shape(format).columns / 32;
    static constexpr int kFetched = kBytes / kRuns;
};

template <int32_t format> struct Format;

template <> struct Format<TIERCEL_Q8_0> : Shape<TIERCEL_Q8_0> {
    static constexpr int kBits = 8, kZero = 128, kParts = 1;
    static constexpr bool kMinimum = false;
    static Quads quads(const uint8_t *group, int run) {
        Quads q;
        for (int j = 0; j < 8; j++) q.quad[j] = load_bytes(group + 64 + 512 * run + 64 * j);
        return q;
    }
    static F32 scale(const uint8_t *group, int run, int) { return load_halves(group + 32 * run); }
    static F32 minimum(const uint8_t *, int) { return zero(); }
};

template <> struct Format<TIERCEL_Q4_0> : Shape<TIERCEL_Q4_0> {
    static constexpr int kBits = 4, kZero = 8, kParts = 1;
    static constexpr bool kMinimum = false;
    static Quads quads(const uint8_t *group, int run) { return read_nibbles(group + 64 + 256 * run); }
    static F32 scale(const uint8_t *group, int run, int) { return load_halves(group + 32 * run); }
    static F32 minimum(const uint8_t *, int) { return zero(); }
};

template <> struct Format<TIERCEL_Q4_1> : Shape<TIERCEL_Q4_1> {
    static constexpr int kBits = 4, kZero = 0, kParts = 1;
    static constexpr bool kMinimum = true;
    static Quads quads(const uint8_t *group, int) { return read_nibbles(group + 64); }
    static F32 scale(const uint8_t *group, int, int) { return load_halves(group); }
    static F32 minimum(const uint8_t *group, int) { return load_halves(group + 32); }
};

template <> struct Format<TIERCEL_Q5_0> : Shape<TIERCEL_Q5_0> {
    static constexpr int kBits = 5, kZero = 16, kParts = 1;
    static constexpr bool kMinimum = false;
    static Quads quads(const uint8_t *group, int run) {
        const uint8_t *low = group + 64 + (256 + 64) * run;
        Quads q = read_nibbles(low);
        I32 fifth = load_bytes(low + 256), one = all(0x10101010);
        q.quad[0] = q.quad[0] | (shift_left<4>(fifth) & one);
        q.quad[1] = q.quad[1] | (shift_left<3>(fifth) & one);
        q.quad[2] = q.quad[2] | (shift_left<2>(fifth) & one);
        q.quad[3] = q.quad[3] | (shift_left<1>(fifth) & one);
        q.quad[4] = q.quad[4] | (fifth & one);
        q.quad[5] = q.quad[5] | (shift_right<1>(fifth) & one);
        q.quad[6] = q.quad[6] | (shift_right<2>(fifth) & one);
        q.quad[7] = q.quad[7] | (shift_right<3>(fifth) & one);
        return q;
    }
    static F32 scale(const uint8_t *group, int run, int) { return load_halves(group + 32 * run); }
    static F32 minimum(const uint8_t *, int) { return zero(); }
};

template <> struct Format<TIERCEL_Q4_K> : Shape<TIERCEL_Q4_K> {
    static constexpr int kBits = 4, kZero = 0, kParts = 1;
    static constexpr bool kMinimum = true;
    static Quads quads(const uint8_t *group, int run) { return read_nibbles(group + 64 + 256 + 256 * run); }
    static F32 scale(const uint8_t *group, int run, int) {
        return load_halves(group) * to_float(load_u8(group + 64 + 32 * run));
    }
    static F32 minimum(const uint8_t *group, int run) {
        return zero() - load_halves(group + 32) * to_float(load_u8(group + 64 + 32 * run + 16));
    }
};

template <> struct Format<TIERCEL_Q6_K> : Shape<TIERCEL_Q6_K> {
    static constexpr int kBits = 6, kZero = 32, kParts = 2;
    static constexpr bool kMinimum = false;
    static Quads quads(const uint8_t *group, int run) {
        const uint8_t *low = group + 64 + 256 + (256 + 128) * run;
        Quads q = read_nibbles(low);
        I32 two = all(0x30303030);
        for (int j = 0; j < 2; j++) {
            I32 high = load_bytes(low + 256 + 64 * j);
            q.quad[j] = q.quad[j] | (shift_left<4>(high) & two);
            q.quad[2 + j] = q.quad[2 + j] | (shift_left<2>(high) & two);
            q.quad[4 + j] = q.quad[4 + j] | (high & two);
            q.quad[6 + j] = q.quad[6 + j] | (shift_right<2>(high) & two);
        }
        return q;
    }
    static F32 scale(const uint8_t *group, int run, int part) {
        const uint8_t *scales = group + 64 + 32 * run + 16 * part;
        return load_halves(group) * to_float(load_s8(reinterpret_cast<const int8_t *>(scales)));
    }
    static F32 minimum(const uint8_t *, int) { return zero(); }
};

template <int bytes> inline void prefetch(const uint8_t *p) {
    for (int at = 0; at < bytes; at += 64) _mm_prefetch(reinterpret_cast<const char *>(p + at), _MM_HINT_T0);
}

// A run of any format as a product of many rows reads it: unpacked once, in working memory.
template <class From> struct Unpacked {
    static constexpr int kBits = From::kBits, kZero = From::kZero, kParts = From::kParts, kRuns = 1;
    static constexpr int kFetched = From::kFetched;
    static constexpr bool kMinimum = From::kMinimum;
    static constexpr int kBytes = 512 + 64 * (kParts + (kMinimum ? 1 : 0));
    static Quads quads(const uint8_t *group, int) {
        Quads q;
        for (int j = 0; j < 8; j++) q.quad[j] = load_bytes(group + 64 * j);
        return q;
    }
    static F32 scale(const uint8_t *group, int, int part) {
        return load(reinterpret_cast<const float *>(group + 512 + 64 * part));
    }
    static F32 minimum(const uint8_t *group, int) { return load(reinterpret_cast<const float *>(group + 512 + 64 * kParts)); }

    static void write(uint8_t *out, const Quads &q, const uint8_t *group, int run) {
        for (int j = 0; j < 8; j++) store(reinterpret_cast<int32_t *>(out + 64 * j), q.quad[j]);
        float *scales = reinterpret_cast<float *>(out + 512);
        for (int part = 0; part < kParts; part++) store(scales + kLanes * part, From::scale(group, run, part));
        if (kMinimum) store(scales + kLanes * kParts, From::minimum(group, run));
    }
};

}  // namespace tiercel::TIERCEL_LEVEL
