// Products of int8 by the tiles of AMX; part of linear_int8.cpp.
//
// Up to kStreamedRows rows only wait for memory: each pair of panels is read once from end to end.
//
// More rows go by strips of two blocks of 16 and pairs of panels, four tiles of results from two of x and two of weights: so
// each tile that is loaded is used twice. The first cache does not deliver both factors unless one of them stays there: it is
// the weights of one pair of panels, while x of all strips passes; and columns are cut into chunks that fit. Between chunks
// sums wait in memory. What is left to do with finished sums is done beside the next tiles, which leave all other units idle.

#pragma once

#include "linear_int8.h"
#include "tile.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

constexpr int64_t kTileBytes = 1024, kTileSums = 16 * kLanes, kStripRows = 32, kStripSums = 4 * kTileSums;
constexpr int64_t kStreamedRows = 32;
constexpr int64_t kAhead = 1024;  // bytes from weights that are read to those that are fetched

// Sums of up to 32 rows and two panels, [rows][2 panels][16], as four tiles: [2 row blocks][2 panels].
constexpr int64_t kSumsStride = 2 * kLanes;  // from row to row
constexpr int64_t kSumsBytes = kSumsStride * 4;

template <int tile> inline int32_t *place(int32_t *sums) {
    return sums + tile / 2 * 16 * kSumsStride + tile % 2 * kLanes;
}
inline void store_tiles(int32_t *sums) {
    tile_store<0>(place<0>(sums), kSumsBytes), tile_store<1>(place<1>(sums), kSumsBytes);
    tile_store<2>(place<2>(sums), kSumsBytes), tile_store<3>(place<3>(sums), kSumsBytes);
}

// Scales and stores such sums, row by row.
class Finish {
  public:
    Finish() = default;
    Finish(const Linear &job, const Panels &run, const I8Rows &x, const int32_t *sums, int64_t row, int64_t rows, int64_t panel)
        : job_(&job), sums_(sums), scales_(x.scales + row), row_(row), end_(row + rows), channel_(run.channel_of(panel)) {
        const bool two = panel + 1 < run.last;
        count_[0] = run.channels_of(panel), count_[1] = two ? run.channels_of(panel + 1) : 0;
        scale_[0] = scales_of(run, panel), scale_[1] = scales_of(run, panel + two);
        whole_ = count_[1] == kLanes;
        for (int p = 0; whole_ && job.bias && p < 2; p++) bias_[p] = load(job.bias + channel_ + p * kLanes);
    }

    // One row, if there is one left.
    void step() {
        if (row_ == end_) return;
        const F32 scale_x = all(*scales_);
        F32 a = to_float(load(sums_)) * (scale_[0] * scale_x), b = to_float(load(sums_ + kLanes)) * (scale_[1] * scale_x);
        if (whole_) {
            if (job_->bias) a = a + bias_[0], b = b + bias_[1];
            if (job_->residual) {
                const float *residual = job_->residual + row_ * job_->stride_residual + channel_;
                a = a + load(residual), b = b + load(residual + kLanes);
            }
            float *out = job_->out + row_ * job_->stride + channel_;
            store(out, a), store(out + kLanes, b);
        } else {
            finish(*job_, row_, channel_, count_[0], a);
            if (count_[1]) finish(*job_, row_, channel_ + kLanes, count_[1], b);
        }
        row_++, scales_++, sums_ += kSumsStride;
    }
    void rest() {
        while (row_ < end_) step();
    }

  private:
    const Linear *job_ = nullptr;
    const int32_t *sums_ = nullptr;
    const float *scales_ = nullptr;
    int64_t row_ = 0, end_ = 0, channel_ = 0;
    int64_t count_[2];
    bool whole_ = false;
    F32 scale_[2], bias_[2];
};

// -- few rows ---------------------------------------------------------------------------------------------------------------

// The sums of one or two blocks of rows and one or two panels, over all columns. Tiles 0 .. 3: sums as [row block][panel];
// 4, 5: x of the row blocks; 6, 7: weights of the panels.
template <int row_blocks, int num_panels>
void add_up(const int8_t *x, int64_t x_bytes, const uint8_t *weights, int64_t panel_bytes, int64_t groups, int32_t *sums) {
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    const int8_t *other = x + groups * x_bytes;
    for (int64_t group = 0; group < groups; group++, x += x_bytes, other += x_bytes, weights += kTileBytes) {
        for (int64_t line = 0; line < kTileBytes; line += 64) _mm_prefetch(weights + kAhead + line, _MM_HINT_T0);
        tile_load<6>(weights, 64);
        tile_load<4>(x, 64);
        tile_multiply_int8<0, 4, 6>();
        if constexpr (num_panels == 2) {
            for (int64_t line = 0; line < kTileBytes; line += 64)
                _mm_prefetch(weights + panel_bytes + kAhead + line, _MM_HINT_T0);
            tile_load<7>(weights + panel_bytes, 64);
            tile_multiply_int8<1, 4, 7>();
        }
        if constexpr (row_blocks == 2) {
            tile_load<5>(other, 64);
            tile_multiply_int8<2, 5, 6>();
            if constexpr (num_panels == 2) tile_multiply_int8<3, 5, 7>();
        }
    }
    store_tiles(sums);
}

void multiply_few_rows(const Linear &job, const Panels &run, const I8Rows &x) {
    const int64_t bytes = panel_bytes(TIERCEL_I8, run.part.columns), x_bytes = x.block_rows * 64;
    alignas(64) int32_t sums[kStripSums];
    for (int64_t panel = run.first; panel < run.last; panel += 2) {
        const bool two = panel + 1 < run.last;
        for (int64_t row = run.first_row; row < run.last_row; row += kStripRows) {
            const int64_t rows = std::min(kStripRows, run.last_row - row);
            const auto add = rows > 16 ? (two ? add_up<2, 2> : add_up<2, 1>) : (two ? add_up<1, 2> : add_up<1, 1>);
            add(x.at(row, 0), x_bytes, run.data(panel), bytes, x.groups, sums);
            Finish(job, run, x, sums, row, rows, panel).rest();
        }
    }
}

// -- many rows --------------------------------------------------------------------------------------------------------------

// One chunk of a strip and a pair of panels.
struct Step {
    const int8_t *x[2];
    const uint8_t *weights[2];
    int64_t x_bytes, groups;
    int32_t *sums;         // of the chunks before; null: from zero
    const uint8_t *next;   // weights to be read later: each group of columns fetches so many bytes of either panel
    int64_t next_bytes;
    const float *out;      // where results go: each group fetches so many rows, so that storing them does not wait
    int64_t stride, rows;
};

template <int tile> inline void begin(const Step &step) {
    step.sums ? tile_load<tile>(place<tile>(step.sums), kSumsBytes) : tile_zero<tile>();
}

// Tiles as above. The sums of the step before are stored between the first products of this one, and finished between all of
// them, a row at a time: in a bunch, either would keep the matrix unit waiting, which takes few instructions in advance.
void add_chunk(const Step &step, int32_t *before, Finish &finish) {
    const int8_t *x0 = step.x[0], *x1 = step.x[1];
    const uint8_t *w0 = step.weights[0], *w1 = step.weights[1];
    const uint8_t *next = step.next, *next1 = step.next + (w1 - w0);
    const float *out = step.out;
    tile_load<6>(w0, 64), tile_load<4>(x0, 64);
    tile_store<0>(place<0>(before), kSumsBytes);
    begin<0>(step);
    tile_multiply_int8<0, 4, 6>();
    tile_load<7>(w1, 64);
    tile_store<1>(place<1>(before), kSumsBytes);
    begin<1>(step);
    tile_multiply_int8<1, 4, 7>();
    tile_load<5>(x1, 64);
    tile_store<2>(place<2>(before), kSumsBytes);
    begin<2>(step);
    tile_multiply_int8<2, 5, 6>();
    tile_store<3>(place<3>(before), kSumsBytes);
    begin<3>(step);
    tile_multiply_int8<3, 5, 7>();
    for (int64_t group = 1; group < step.groups; group++) {
        x0 += step.x_bytes, x1 += step.x_bytes, w0 += kTileBytes, w1 += kTileBytes;
        tile_load<6>(w0, 64), tile_load<4>(x0, 64);
        tile_multiply_int8<0, 4, 6>();
        finish.step();
        tile_load<7>(w1, 64);
        tile_multiply_int8<1, 4, 7>();
        finish.step();
        for (int64_t line = 0; line < step.next_bytes; line += 64) {
            _mm_prefetch(next + line, _MM_HINT_T1);
            _mm_prefetch(next1 + line, _MM_HINT_T1);
        }
        next += step.next_bytes, next1 += step.next_bytes;
        for (int64_t row = 0; row < step.rows; row++, out += step.stride) {
            _mm_prefetch(out, _MM_HINT_T0);
            _mm_prefetch(out + kLanes, _MM_HINT_T0);
        }
        tile_load<5>(x1, 64);
        tile_multiply_int8<2, 5, 6>();
        finish.step();
        tile_multiply_int8<3, 5, 7>();
        finish.step();
    }
    finish.rest();
}

// One run of panels for its rows.
class ManyRows {
  public:
    ManyRows(const Linear &job, const Panels &run, const I8Rows &x, const Worker &worker)
        : job_(job), run_(run), x_(x), strips_((run.last_row - run.first_row + kStripRows - 1) / kStripRows),
          pairs_((run.last - run.first + 1) / 2) {
        const int64_t chunks = (x.groups + kMostGroups - 1) / kMostGroups;
        chunk_ = (x.groups + chunks - 1) / chunks;
        // All chunks of a pair before the next, if all of x stays in the second-level cache.
        span_ = x.groups * 64 * (run.last_row - run.first_row) <= kRowsBytes ? x.groups : chunk_;
        const int64_t waiting = strips_ * (span_ < x.groups ? pairs_ : 1);
        sums_ = reinterpret_cast<int32_t *>(worker.scratch((waiting + 2) * kStripSums * int64_t(sizeof(int32_t))));
        spare_ = sums_ + waiting * kStripSums;
        before_ = spare_;  // whatever the tiles hold at first
    }

    void compute() {
        for (int64_t first = 0; first < x_.groups; first += span_) {
            for (int64_t pair = 0; pair < pairs_; pair++) {
                for (int64_t group = first; group < std::min(first + span_, x_.groups); group += chunk_) {
                    for (int64_t strip = 0; strip < strips_; strip++) add(pair, group, strip);
                }
            }
        }
        store_tiles(before_);
        finish_.rest();
    }

  private:
    static constexpr int64_t kMostGroups = 14, kRowsBytes = 1 << 20;

    void add(int64_t pair, int64_t group, int64_t strip) {
        const int64_t panel = run_.first + 2 * pair;
        const int64_t row = run_.first_row + strip * kStripRows, rows = std::min(kStripRows, run_.last_row - row);
        const int64_t groups = std::min(chunk_, x_.groups - group);
        const bool one_chunk = chunk_ >= x_.groups, last = group + groups == x_.groups;
        int32_t *values = one_chunk ? (before_ == spare_ ? spare_ + kStripSums : spare_)
                                    : sums_ + ((span_ < x_.groups ? pair * strips_ : 0) + strip) * kStripSums;
        const uint8_t *weights = run_.data(panel) + group * kTileBytes;
        const int64_t distance = panel + 1 < run_.last ? panel_bytes(TIERCEL_I8, run_.part.columns) : 0;
        // Each strip fetches its part of the weights that come next.
        const int64_t next_bytes = kTileBytes / strips_;
        const uint8_t *next = weights_after(pair, group) + strip * groups * next_bytes;
        const Step step{{x_.at(row, group), x_.at(rows > 16 ? row + 16 : row, group)}, {weights, weights + distance},
                        x_.block_rows * 64, groups, group ? values : nullptr, next, next_bytes,
                        job_.out + row * job_.stride + run_.channel_of(panel), job_.stride,
                        last ? (rows + groups - 1) / groups : 0};
        add_chunk(step, before_, finish_);
        before_ = values;
        if (last) finish_ = Finish(job_, run_, x_, values, row, rows, panel);
    }

    // What is read after a chunk of a pair, about; past the run's last, where the next run may begin.
    const uint8_t *weights_after(int64_t pair, int64_t group) const {
        int64_t next = pair, at = group + chunk_;
        if (span_ < x_.groups || at >= x_.groups) next = pair + 1, at = span_ < x_.groups ? group : 0;
        if (next >= pairs_) next = 0, at = group + chunk_;
        if (at >= x_.groups) next = pairs_, at = 0;
        return run_.data(run_.first + 2 * next) + at * kTileBytes;
    }

    const Linear &job_;
    const Panels &run_;
    const I8Rows &x_;
    const int64_t strips_, pairs_;
    int64_t chunk_, span_;    // groups
    int32_t *sums_, *spare_;  // of chunks, [pairs][strips] or [strips]; two where nothing waits
    int32_t *before_;         // where the last step's sums go, which tiles still hold
    Finish finish_;           // of those that are complete
};

void multiply(const Linear &job, const Panels &run, const Worker &worker) {
    const I8Rows x = rows_of(job, run.part.columns);
    const uint8_t rows = uint8_t(x.block_rows);
    const Tiles tiles({rows, rows, rows, rows, rows, rows, 16, 16});
    job.rows <= kStreamedRows ? multiply_few_rows(job, run, x) : ManyRows(job, run, x, worker).compute();
}

}  // namespace
}  // namespace tiercel::TIERCEL_LEVEL
