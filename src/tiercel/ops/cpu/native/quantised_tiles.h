// Many rows times an unpacked panel by tiles (AMX), 16 rows at a time.
//
// A run's integer sums are one tile product, rows [16][32 columns] by quads [8][16 outputs][4]; they are stored, and scaled
// lane by lane as everywhere else. The way through a tile and memory is long: tiles are one run ahead of what is scaled. Rows
// that a last block of fewer than 16 lacks count as zeros.

#pragma once

#include <cstring>
#include <utility>

#include "activations.h"
#include "linear.h"
#include "quantised_formats.h"
#include "tile.h"

namespace tiercel::TIERCEL_LEVEL {

template <class From> class ByTiles {
    using Form = Unpacked<From>;
    static constexpr int kParts = Form::kParts;

  public:
    static constexpr int kRows = 16;

    // For the scales of all rows, [blocks][runs][2][16 rows] float32, and the integers of a last block that is not whole.
    static int64_t scratch_bytes(const Linear &job, const Panels &panels) {
        const int64_t columns = padded_channels(panels.part.columns);
        return (job.rows + kRows - 1) / kRows * (columns / 32 * 2 * kRows * int64_t(sizeof(float))) + kRows * columns;
    }

    // Tiles 0, 1: sums; 2, 3: rows; 4, 5: weights. One for each part of a run, or for every other run.
    ByTiles(const Linear &job, const Panels &panels, uint8_t *scratch)
        : job_(job), panels_(panels), runs_(padded_channels(panels.part.columns) / 32),
          all_scales_(reinterpret_cast<float *>(scratch)),
          copy_(reinterpret_cast<int8_t *>(all_scales_ + (job.rows + kRows - 1) / kRows * (runs_ * 2 * kRows))),
          tiles_({16, 16, 16, 16, 8 / kParts, 8 / kParts, 1, 1},
                 {64, 64, 32 / kParts, 32 / kParts, 64, 64, 64, 64}) {
        const int64_t whole = job.rows / kRows * kRows;
        if (whole < job.rows) {
            std::memset(all_scales_ + whole * runs_ * 2, 0, runs_ * 2 * kRows * sizeof(float));
            std::memset(copy_, 0, kRows * runs_ * 32);
        }
        for (int64_t row = 0; row < job.rows; row++) {
            const Q8Row x(job.x_q8 + row * job.stride_q8, panels.part.columns);
            if (row >= whole) std::memcpy(copy_ + (row - whole) * runs_ * 32, x.values, runs_ * 32);
            float *scales = all_scales_ + row / kRows * kRows * runs_ * 2 + row % kRows;
            for (int64_t run = 0; run < runs_; run++, scales += 2 * kRows) {
                scales[0] = x.scales[run];
                scales[kRows] = x.scaled_sums[run];
            }
        }
    }

    // Tiles multiply signed bytes: the zero point is taken off before.
    static Quads prepare(Quads q) {
        for (I32 &quad : q.quad) quad.v = _mm512_sub_epi8(quad.v, _mm512_set1_epi8(int8_t(Form::kZero)));
        return q;
    }

    // The rows of the products that follow, a block.
    void rows(int64_t first, int64_t last) {
        first_ = first, last_ = last;
        const bool whole = last - first == kRows;
        values_ = whole ? reinterpret_cast<const int8_t *>(job_.x_q8 + first * job_.stride_q8) : copy_;
        stride_ = whole ? job_.stride_q8 : runs_ * 32;
        scales_ = all_scales_ + first * runs_ * 2;
    }

    void multiply(int64_t panel, const uint8_t *data, const uint8_t *fetch) const {
        if (last_ - first_ <= kRows / 2) multiply(std::make_integer_sequence<int, kRows / 2>(), panel, data, fetch);
        else multiply(std::make_integer_sequence<int, kRows>(), panel, data, fetch);
    }

  private:
    using Sums = int32_t[kParts][kRows][kLanes];

    template <int part, int tile> void sum(const uint8_t *group, int64_t run, Sums &sums) const {
        tile_zero<tile>();
        tile_load<2 + tile>(values_ + 32 * run + 16 * part, stride_);
        tile_load<4 + tile>(group + run * Form::kBytes + 256 * part, 64);
        tile_multiply_int8<tile, 2 + tile, 4 + tile>();
        tile_store<tile>(sums[part], 64);
    }

    template <int odd> void sum_run(const uint8_t *group, int64_t run, Sums &sums) const {
        if constexpr (kParts == 1) {
            sum<0, odd>(group, run, sums);
        } else {
            sum<0, 0>(group, run, sums);
            sum<1, 1>(group, run, sums);
        }
    }

    // rows: 8 or 16, of which the last may be nobody's. Loops over them are written as packs, for the compiler keeps `acc` in
    // registers across the tiles' assembly only where it sees constant indices from the start.
    template <int... r>
    void multiply(std::integer_sequence<int, r...>, int64_t panel, const uint8_t *group, const uint8_t *fetch) const {
        alignas(64) Sums buffers[2];
        F32 acc[] = {((void)r, zero())...};
        auto scale_run = [&](int64_t run) __attribute__((always_inline)) {
            const Sums &sums = buffers[run % 2];
            const uint8_t *at = group + run * Form::kBytes;
            const float *scales = scales_ + run * 2 * kRows;
            const F32 first = Form::scale(at, 0, 0);
            ((acc[r] = fma(to_float(load(sums[0][r])), first * all(scales[r]), acc[r])), ...);
            if constexpr (kParts == 2) {
                const F32 second = Form::scale(at, 0, 1);
                ((acc[r] = fma(to_float(load(sums[1][r])), second * all(scales[r]), acc[r])), ...);
            }
            if constexpr (Form::kMinimum) {
                const F32 minimum = Form::minimum(at, 0);
                ((acc[r] = fma(all(scales[kRows + r]), minimum, acc[r])), ...);
            }
        };
        sum_run<0>(group, 0, buffers[0]);
        for (int64_t run = 0; run < runs_; run += 2) {
            if (fetch) prefetch<2 * Form::kFetched>(fetch + run * Form::kFetched);
            if (run + 1 < runs_) sum_run<1>(group, run + 1, buffers[1]);
            scale_run(run);
            if (run + 2 < runs_) sum_run<0>(group, run + 2, buffers[0]);
            if (run + 1 < runs_) scale_run(run + 1);
        }
        const int64_t channel = panels_.channel_of(panel), count = panels_.channels_of(panel);
        auto finish_row = [&](int row, F32 sum) {
            if (first_ + row < last_) finish(job_, first_ + row, channel, count, sum);
        };
        (finish_row(r, acc[r]), ...);
    }

    const Linear &job_;
    const Panels &panels_;
    const int64_t runs_;
    float *const all_scales_;
    int8_t *const copy_;
    const float *scales_ = nullptr;
    const int8_t *values_ = nullptr;
    int64_t stride_ = 0, first_ = 0, last_ = 0;
    const Tiles tiles_;
};

}  // namespace tiercel::TIERCEL_LEVEL
