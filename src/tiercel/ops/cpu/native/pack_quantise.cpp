// Float32 values to Q8_0, Q4_0 and Q4_1.
//
// 4 bits are few, and the scale that spans all values is seldom the best one: 16 candidates are tried at a time, one per lane.
// Each rounds all values, and the scale (and minimum) that fit those integers best in the least squares sense are compared.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "pack.h"
#include "simd.h"

namespace tiercel {
namespace {

using namespace TIERCEL_LEVEL;

constexpr int kValues = 32;
constexpr float kLargestHalf = 65504.0f;

uint16_t scale_to_half(float scale) { return to_half(std::clamp(scale, -kLargestHalf, kLargestHalf)); }

// The lane with the largest value; NaN never wins.
int best_lane(F32 a) {
    float lanes[kLanes];
    store(lanes, a);
    int best = 0;
    for (int lane = 1; lane < kLanes; lane++) {
        if (lanes[lane] > lanes[best] || std::isnan(lanes[best])) best = lane;
    }
    return best;
}

float lane_of(F32 a, int lane) {
    float lanes[kLanes];
    store(lanes, a);
    return lanes[lane];
}

// values = round((x - minimum) / scale) + zero_point within 0 .. top, for the scale and minimum as stored; NaN becomes 0.
void round_values(const float *x, float minimum, float scale, float zero_point, float top, uint8_t *values) {
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int i = 0; i < kValues; i += kLanes) {
        const F32 q = round((load(x + i) - all(minimum)) * all(inverse)) + all(zero_point);
        const I32 whole = to_int(min(max(q, zero()), all(top)));
        for (int lane = 0; lane < kLanes; lane += 8) {  // the low bytes of 8 lanes
            const __m256i words = lane ? whole.hi : whole.lo;
            const __m256i bytes = _mm256_shuffle_epi8(words, _mm256_set1_epi32(0x0c080400));
            const uint32_t low = _mm256_extract_epi32(bytes, 0), high = _mm256_extract_epi32(bytes, 4);
            std::memcpy(values + i + lane, &low, 4);
            std::memcpy(values + i + lane + 4, &high, 4);
        }
    }
}

// Of |x|; NaN is passed over.
float largest_magnitude(const float *x) {
    const F32 a = max(abs(load(x)), max(abs(load(x + kLanes)), zero()));
    float lanes[kLanes];
    store(lanes, max(a, zero()));
    return *std::max_element(lanes, lanes + kLanes);
}

void quantise_q8_0(const float *x, Quants &out) {
    out.scale = scale_to_half(largest_magnitude(x) / 127.0f);
    round_values(x, 0.0f, from_half(out.scale), 128.0f, 255.0f, out.values);
}

// Scales for which the value of largest magnitude becomes -9 .. -6.4 before it is limited to -8.
void quantise_q4_0(const float *x, Quants &out) {
    float largest = 0.0f;
    for (int i = 0; i < kValues; i++) {
        if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
    }
    static constexpr float kTops[kLanes] = {-8.0f, -9.0f, -8.8f, -8.6f, -8.4f, -8.2f, -7.9f, -7.8f,
                                            -7.7f, -7.6f, -7.4f, -7.2f, -7.1f, -7.0f, -6.7f, -6.4f};
    const F32 inverse = all(largest == 0.0f ? 0.0f : 1.0f / largest) * load(kTops);
    F32 sum_qx = zero(), sum_qq = zero();
    for (int i = 0; i < kValues; i++) {
        F32 value = all(x[i]);
        F32 q = max(min(round(value * inverse), all(7.0f)), all(-8.0f));
        sum_qx = fma(q, value, sum_qx);
        sum_qq = fma(q, q, sum_qq);
    }
    // With scale = sum_qx / sum_qq the squared error is sum_xx - sum_qx^2 / sum_qq.
    const int best = best_lane(sum_qx * sum_qx / sum_qq);
    const float square = lane_of(sum_qq, best);
    out.scale = scale_to_half(square > 0.0f ? lane_of(sum_qx, best) / square : 0.0f);
    round_values(x, 0.0f, from_half(out.scale), 8.0f, 15.0f, out.values);
}

// The range is cut by 0, 2, 4 or 6 % at either end.
void quantise_q4_1(const float *x, Quants &out) {
    float low = x[0], high = x[0], sum_x = 0.0f;
    for (int i = 0; i < kValues; i++) {
        low = std::min(low, x[i]);
        high = std::max(high, x[i]);
        sum_x += x[i];
    }
    const float range = high - low;
    if (!(range > 0.0f)) {
        out.scale = 0;
        out.minimum = scale_to_half(low);
        std::fill_n(out.values, kValues, uint8_t(0));
        return;
    }
    static constexpr float kBelow[kLanes] = {0.0f,  0.0f,  0.0f,  0.0f,  0.02f, 0.02f, 0.02f, 0.02f,
                                             0.04f, 0.04f, 0.04f, 0.04f, 0.06f, 0.06f, 0.06f, 0.06f};
    static constexpr float kAbove[kLanes] = {0.0f, 0.02f, 0.04f, 0.06f, 0.0f, 0.02f, 0.04f, 0.06f,
                                             0.0f, 0.02f, 0.04f, 0.06f, 0.0f, 0.02f, 0.04f, 0.06f};
    const F32 start = fma(load(kBelow), all(range), all(low));
    const F32 inverse = all(15.0f / range) / (all(1.0f) - load(kBelow) - load(kAbove));
    // Values are taken relative to `low`, which keeps the sums small where all values are far from zero.
    F32 sum_q = zero(), sum_qq = zero(), sum_qx = zero();
    for (int i = 0; i < kValues; i++) {
        F32 q = max(min(round((all(x[i]) - start) * inverse), all(15.0f)), zero());
        sum_q = sum_q + q;
        sum_qq = fma(q, q, sum_qq);
        sum_qx = fma(q, all(x[i] - low), sum_qx);
    }
    // scale * q + minimum fits best with these, and their squared error is sum_xx - (scale * sum_qx + minimum * sum_x).
    const F32 count = all(float(kValues)), total = all(sum_x - kValues * low);
    const F32 determinant = count * sum_qq - sum_q * sum_q;
    const F32 scale = (count * sum_qx - sum_q * total) / determinant;
    const F32 minimum = (total * sum_qq - sum_q * sum_qx) / determinant;
    const int best = best_lane(fma(scale, sum_qx, minimum * total));
    out.scale = scale_to_half(lane_of(scale, best));
    out.minimum = scale_to_half(lane_of(minimum, best) + low);
    round_values(x, from_half(out.minimum), from_half(out.scale), 0.0f, 15.0f, out.values);
}

}  // namespace

void quantise(int32_t format, const float *values, Quants &out) {
    if (format == TIERCEL_Q8_0) quantise_q8_0(values, out);
    if (format == TIERCEL_Q4_0) quantise_q4_0(values, out);
    if (format == TIERCEL_Q4_1) quantise_q4_1(values, out);
}

}  // namespace tiercel
