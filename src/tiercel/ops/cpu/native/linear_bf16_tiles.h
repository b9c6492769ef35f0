// Products of bf16 by the tiles of AMX; part of linear_bf16.cpp.
//
// Up to kFewRows rows only wait for memory: each pair of panels is read once from end to end.
//
// More rows go by strips of two blocks of 16 and pairs of panels, four tiles of results from two of x and two of weights: so
// each tile that is loaded is used twice. A tile of the first cache is there in 8 cycles, one of the second in 17 or more; a
// product takes 16, and needs one load. Hence one factor has to come from the first cache, and columns are cut into chunks
// that fit it. With tens of rows that is x, while weights come from memory. With more it is the chunk's weights of one pair of
// panels, while x of all strips passes. Between chunks sums wait in memory, as float32 that nobody rounds.

#pragma once

#include "activations.h"
#include "linear.h"
#include "tile.h"

namespace tiercel::TIERCEL_LEVEL {
namespace {

constexpr int64_t kTileBytes = 1024, kTileSums = 256, kStripRows = 32, kStripSums = 4 * kTileSums;

inline void fetch(const uint8_t *memory, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch(memory + line, _MM_HINT_T0);
}

// -- few rows ---------------------------------------------------------------------------------------------------------------

constexpr int64_t kAhead = 1024;  // bytes from what is read to what is fetched; 4096 and 8192 are slower

// Sums of up to 16 rows and one or two panels in tiles 0 and 1. Tile 4: x; 6, 7: weights.
template <int num_panels>
void add_up(const uint16_t *x, int64_t x_bytes, const uint8_t *weights, int64_t panel_bytes, int64_t groups) {
    const uint8_t *tile = reinterpret_cast<const uint8_t *>(x);
    tile_zero<0>(), tile_zero<1>();
    for (int64_t group = 0; group < groups; group++, tile += x_bytes, weights += kTileBytes) {
        fetch(weights + kAhead, kTileBytes);
        tile_load<6>(weights, 64);
        tile_load<4>(tile, 64);
        tile_multiply_bf16<0, 4, 6>();
        if constexpr (num_panels == 2) {
            fetch(weights + panel_bytes + kAhead, kTileBytes);
            tile_load<7>(weights + panel_bytes, 64);
            tile_multiply_bf16<1, 4, 7>();
        }
    }
}

void linear_of_few_rows(const Linear &job, const Panels &run) {
    const Bf16Rows x(job.x_bf16, job.rows, run.part.columns);
    const int64_t panel_bytes = x.groups * kTileBytes;
    const uint8_t rows = uint8_t(job.rows);
    const Tiles tiles({rows, rows, rows, rows, rows, rows, 16, 16});
    for (int64_t panel = run.first; panel < run.last; panel += 2) {
        const bool two = panel + 1 < run.last;
        (two ? add_up<2> : add_up<1>)(x.values, rows * 64, run.data(panel), panel_bytes, x.groups);
        alignas(64) float sums[2][kFewRows][kLanes];
        tile_store<0>(sums[0], 64), tile_store<1>(sums[1], 64);
        for (int64_t row = 0; row < rows; row++) {
            for (int p = 0; p < 1 + two; p++)
                finish(job, row, run.channel_of(panel + p), run.channels_of(panel + p), load(sums[p][row]));
        }
    }
}

// -- more rows --------------------------------------------------------------------------------------------------------------

// Where four tiles of sums stand: [row block][panel].
struct Place {
    float *tiles[4];
    int64_t stride;  // bytes from row to row
};

inline Place waiting(float *sums) { return {{sums, sums + kTileSums, sums + 2 * kTileSums, sums + 3 * kTileSums}, 64}; }

// What comes from afar and is to be there in time, some lines with each group of columns.
struct Ahead {
    const uint8_t *weights[2];
    int64_t weight_bytes;   // of each panel, per group
    const float *out;       // of a pair of panels, or null
    int64_t stride, rows;   // rows: per group
};

// One chunk of a strip and a pair of panels.
struct Step {
    const uint8_t *x[2], *weights[2];
    int64_t x_bytes, groups;
    const float *sums;  // of the chunks before; null: from zero
    Ahead ahead;
};

template <int tile> inline void begin(const Step &step) {
    step.sums ? tile_load<tile>(step.sums + tile * kTileSums, 64) : tile_zero<tile>();
}

inline void fetch_ahead(Ahead &ahead) {
    for (const uint8_t *&weights : ahead.weights) {
        fetch(weights, ahead.weight_bytes);
        weights += ahead.weight_bytes;
    }
    if (!ahead.out) return;
    for (int64_t row = 0; row < ahead.rows; row++, ahead.out += ahead.stride) {
        _mm_prefetch(ahead.out, _MM_HINT_T0);
        _mm_prefetch(ahead.out + kLanes, _MM_HINT_T0);
    }
}

// Tiles 0 .. 3: sums as [row block][panel]; 4, 5: x of the row blocks; 6, 7: weights of the panels. The sums of the step before
// are stored between the first products of this one: in a bunch at the end, they would keep the matrix unit waiting.
inline void add_chunk(const Step &step, const Place &before) {
    const uint8_t *x0 = step.x[0], *x1 = step.x[1], *w0 = step.weights[0], *w1 = step.weights[1];
    Ahead ahead = step.ahead;
    fetch_ahead(ahead);
    tile_load<6>(w0, 64), tile_load<4>(x0, 64);
    tile_store<0>(before.tiles[0], before.stride);
    begin<0>(step);
    tile_multiply_bf16<0, 4, 6>();
    tile_load<7>(w1, 64);
    tile_store<1>(before.tiles[1], before.stride);
    begin<1>(step);
    tile_multiply_bf16<1, 4, 7>();
    tile_load<5>(x1, 64);
    tile_store<2>(before.tiles[2], before.stride);
    begin<2>(step);
    tile_multiply_bf16<2, 5, 6>();
    tile_store<3>(before.tiles[3], before.stride);
    begin<3>(step);
    tile_multiply_bf16<3, 5, 7>();
    for (int64_t group = 1; group < step.groups; group++) {
        x0 += step.x_bytes, x1 += step.x_bytes, w0 += kTileBytes, w1 += kTileBytes;
        fetch_ahead(ahead);
        tile_load<6>(w0, 64), tile_load<4>(x0, 64);
        tile_multiply_bf16<0, 4, 6>();
        tile_load<7>(w1, 64);
        tile_multiply_bf16<1, 4, 7>();
        tile_load<5>(x1, 64);
        tile_multiply_bf16<2, 5, 6>();
        tile_multiply_bf16<3, 5, 7>();
    }
}

// How a run is worked on: chunks of some groups of columns; all chunks of a span before the next pair of panels.
struct Order {
    int64_t chunk, span;

    Order(int64_t rows, int64_t groups) {
        if (rows <= kChunkedRows) {
            chunk = span = 4;  // 3 and 5 are no faster, 7 and more slower
            return;
        }
        const int64_t chunks = (groups + kMostGroups - 1) / kMostGroups;
        chunk = (groups + chunks - 1) / chunks;
        span = groups * 32 <= kManyColumns ? groups : chunk;
    }
    static constexpr int64_t kMostGroups = 7;  // 8 to 10 are a little slower, 14 do not fit
};

// One run of panels for its rows.
class TileProduct {
  public:
    TileProduct(const Linear &job, const Panels &run, const Worker &worker)
        : job_(job), run_(run), x_(job.x_bf16, job.rows, run.part.columns),
          strips_((run.last_row - run.first_row + kStripRows - 1) / kStripRows), order_(job.rows, x_.groups) {
        const bool wait = order_.span < x_.groups;  // for other pairs
        pairs_ = wait ? std::min<int64_t>((run.last - run.first + 1) / 2, kMostPairs) : 1;
        pair_sums_ = wait ? strips_ * kStripSums : 0;
        sums_ = reinterpret_cast<float *>(worker.scratch((pairs_ * strips_ + 1) * kStripSums * int64_t(sizeof(float))));
        before_ = waiting(sums_ + pairs_ * strips_ * kStripSums);  // whatever the tiles hold at first
    }

    void compute() {
        const uint8_t rows = uint8_t(x_.block_rows);
        const Tiles tiles({rows, rows, rows, rows, rows, rows, 16, 16});
        const int64_t panels = pair_sums_ ? 2 * pairs_ : run_.last - run_.first;
        for (first_ = run_.first; first_ < run_.last; first_ += panels) {
            last_ = std::min(first_ + panels, run_.last);
            for (int64_t group = 0; group < x_.groups; group += order_.span) {
                for (int64_t panel = first_; panel < last_; panel += 2) add_span(panel, group);
            }
        }
        tile_store<0>(before_.tiles[0], before_.stride), tile_store<1>(before_.tiles[1], before_.stride);
        tile_store<2>(before_.tiles[2], before_.stride), tile_store<3>(before_.tiles[3], before_.stride);
        finish_before();
    }

  private:
    static constexpr int64_t kMostPairs = 32;

    void add_span(int64_t panel, int64_t first) {
        const int64_t end = std::min(first + order_.span, x_.groups);
        float *sums = sums_ + (panel - first_) / 2 * pair_sums_;
        for (int64_t group = first; group < end; group += order_.chunk) {
            const int64_t groups = std::min(order_.chunk, end - group);
            for (int64_t strip = 0; strip < strips_; strip++) add(panel, group, groups, strip, sums + strip * kStripSums);
        }
    }

    void add(int64_t panel, int64_t group, int64_t groups, int64_t strip, float *sums) {
        const int64_t row = run_.first_row + strip * kStripRows, above = run_.last_row - row;
        const int64_t other_row = above > 16 ? row + 16 : row, other = panel + 1 < last_ ? panel + 1 : panel;
        const bool last = group + groups == x_.groups, whole = above >= kStripRows && run_.channels_of(other) == kLanes;
        const bool direct = last && whole && other != panel && !job_.bias && !job_.residual;
        const int64_t channel = run_.channel_of(panel);
        float *out = job_.out + row * job_.stride + channel;
        Step step{{tile(row, group), tile(other_row, group)},
                  {weights(panel, group), weights(other, group)},
                  x_.block_rows * 64, groups, group ? sums : nullptr, {}};
        step.ahead = fetched(panel, other, group, groups, strip);
        if (last && above >= kStripRows) {
            step.ahead.out = out, step.ahead.stride = job_.stride;
            step.ahead.rows = (kStripRows + groups - 1) / groups;
        }
        add_chunk(step, before_);
        finish_before();
        before_ = waiting(sums);
        if (direct) {
            float *below = out + 16 * job_.stride;
            before_ = {{out, out + kLanes, below, below + kLanes}, job_.stride * int64_t(sizeof(float))};
        } else if (last) {
            unfinished_ = sums, row_ = row, panel_ = panel;
        }
    }

    // Each strip fetches its part of the weights that come next.
    Ahead fetched(int64_t panel, int64_t other, int64_t group, int64_t groups, int64_t strip) const {
        int64_t next = panel, next_group = group + groups;
        if (pair_sums_ || next_group >= x_.groups) next = panel + 2, next_group = pair_sums_ ? group : 0;
        if (next >= last_) next = first_, next_group = group + groups;
        if (next_group >= x_.groups) next = run_.last, next_group = 0;
        const int64_t distance = (other - panel) * x_.groups * kTileBytes, bytes = kTileBytes / strips_;
        const uint8_t *from = weights(next, next_group) + strip * groups * bytes;
        return {{from, from + distance}, bytes, nullptr, 0, 0};
    }

    void finish_before() {
        if (!unfinished_) return;
        const int64_t rows = std::min(kStripRows, run_.last_row - row_);
        for (int64_t panel = panel_; panel < std::min(panel_ + 2, last_); panel++) {
            const float *sums = unfinished_ + (panel - panel_) * kTileSums;
            for (int64_t i = 0; i < rows; i++) {
                const F32 sum = load(sums + i / 16 * 2 * kTileSums + i % 16 * kLanes);
                finish(job_, row_ + i, run_.channel_of(panel), run_.channels_of(panel), sum);
            }
        }
        unfinished_ = nullptr;
    }

    const uint8_t *tile(int64_t row, int64_t group) const { return reinterpret_cast<const uint8_t *>(x_.at(row, group)); }
    const uint8_t *weights(int64_t panel, int64_t group) const { return run_.data(panel) + group * kTileBytes; }

    const Linear &job_;
    const Panels &run_;
    const Bf16Rows x_;
    const int64_t strips_;
    const Order order_;
    int64_t pairs_, pair_sums_;  // pairs whose sums wait, and how many sums each has there
    int64_t first_ = 0, last_ = 0;  // panels
    float *sums_;  // [pairs][strips][2 row blocks][2 panels][16][16]
    Place before_;  // of the last step's sums, which tiles still hold
    const float *unfinished_ = nullptr;
    int64_t row_ = 0, panel_ = 0;
};

}  // namespace
}  // namespace tiercel::TIERCEL_LEVEL
