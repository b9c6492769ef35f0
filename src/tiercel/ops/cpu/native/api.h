// The library's C interface: what Python calls through ctypes. Plain data only; nothing here owns memory except a pool.
//
// A program is a flat list of instructions over numbered buffers and constants. Row count, positions and block tables come with
// each step, so one program serves every step. `tiercel_run` executes instructions first .. last - 1 as one call.

#pragma once

#include <cstdint>

#pragma GCC visibility push(default)

extern "C" {

#define TIERCEL_ABI 2

// Instruction sets, lowest first. All give the same bits.
enum tiercel_level : int32_t { TIERCEL_AVX2 = 0, TIERCEL_AVX512 = 1, TIERCEL_AMX = 2, TIERCEL_LEVELS = 3 };

// Packed formats; see packing.h for their bytes. F32 is for vectors and tables, plain row-major. F16 exists in files only.
enum tiercel_format : int32_t {
    TIERCEL_F32 = 0, TIERCEL_BF16 = 1, TIERCEL_Q8_0 = 2, TIERCEL_Q4_0 = 3, TIERCEL_Q4_1 = 4, TIERCEL_Q5_0 = 5,
    TIERCEL_Q4_K = 6, TIERCEL_Q6_K = 7, TIERCEL_F16 = 8, TIERCEL_I8 = 9, TIERCEL_FORMATS = 10
};

// Formats of keys and values in the arena. A segment holds the values of all tokens, then their scales.
//   BF16  [block_tokens, head_dim]
//   INT8  int8 [block_tokens, head_dim], float32 scales [block_tokens]
//   INT4  nibbles [block_tokens, head_dim / 2], fp16 scales [block_tokens, head_dim / 32]; see kv_formats.h
// FLOAT32 exists outside of arenas only: [block_tokens, head_dim].
enum tiercel_kv_format : int32_t { TIERCEL_KV_BF16 = 0, TIERCEL_KV_INT8 = 1, TIERCEL_KV_INT4 = 2, TIERCEL_KV_FLOAT32 = 3 };

// A packed matrix [rows, columns].
struct tiercel_matrix {
    const uint8_t *data;
    int32_t format;
    int32_t rows;
    int32_t columns;
    int32_t reserved;
};

// Matrices joined along their rows; rope: cos and sin, each F32 [positions, head_dim / 2].
struct tiercel_constant {
    int32_t first_matrix;
    int32_t num_matrices;
    int32_t interleaved;  // rope: pairs (0, 1), (2, 3), ... instead of (0, d/2), (1, d/2 + 1), ...
    int32_t reserved;
};

// Channels offset .. offset + channels - 1 of a float32 buffer [rows, stride]. buffer -1: none.
struct tiercel_value {
    int32_t buffer;
    int32_t offset;
    int32_t channels;
};

enum tiercel_op : int32_t {
    TIERCEL_EMBEDDING = 0,   // out = rows token_ids of constant[0]
    TIERCEL_ADD = 1,         // out = in[0] + in[1]
    TIERCEL_RMS_NORM = 2,    // out = in[0] normed by runs of columns of constant[0]; real = eps
    TIERCEL_LINEAR = 3,      // out = in_bf16 / in_q8 / in_i8 times constant[0] (+ constant[1]) (+ in[0])
    TIERCEL_ROPE = 4,        // out = in[0] rotated by constant[0]
    TIERCEL_SILU_MUL = 5,    // out = silu(in[0]) * in[1]
    TIERCEL_KV_WRITE = 6,    // keys in[0], values in[1] into `group`, `layer`
    TIERCEL_ATTENTION = 7,   // out = attention of queries in[0]; in[1]: log-sum-exp out, or none; real = scale
    TIERCEL_SELECT_ROWS = 8, // out[i] = in[0][sample_rows[i]]: from the step's rows to its samples
    TIERCEL_CONVERT = 9,     // out = in[0], mostly for the sake of out_bf16 / out_q8 / out_i8
    TIERCEL_OPS = 10
};

struct tiercel_instruction {
    int32_t op;
    int32_t samples;         // 1: works on the step's samples, 0: on its rows
    int32_t barrier;         // 1: waits for all threads first
    tiercel_value in[2];
    tiercel_value out;       // float32 result, or none
    int32_t in_bf16, in_q8, in_i8;     // buffers that hold a product's input in that form, -1 = none
    int32_t out_bf16, out_q8, out_i8;  // buffers that get the result in that form too, -1 = none; offset 0
    int32_t constant[2];     // -1 = none
    int32_t group;           // KV group of the step
    int32_t layer;           // the layer's place within its group
    int32_t heads;           // attention: query heads
    int32_t window;          // attention: 0 = all keys before
    int32_t sink_tokens;
    float real;
};

struct tiercel_buffer {
    uint8_t *data;      // 64-byte aligned
    int64_t row_bytes;  // a multiple of 64
};

struct tiercel_program {
    const tiercel_instruction *instructions;
    const tiercel_constant *constants;
    const tiercel_matrix *matrices;
    const tiercel_buffer *buffers;
    int32_t num_instructions, num_constants, num_matrices, num_buffers;
};

// One KV group of a step. Arena: blocks of block_bytes; see `KVLayout`: segments [layer][k or v][kv head] of a
// tiercel_kv_format.
//
// Where `open` is not null, a query reads the 64 positions of its own block (position / 64) as they were before they were
// stored, in bf16, and every earlier block as it is stored. Own blocks that a step leaves or finds half full live in `open`,
// those in between in `open_scratch` for as long as one layer takes. Either holds [k or v][kv head][64][head_dim] bf16 per
// layer.
struct tiercel_group {
    uint8_t *arena;
    int64_t block_bytes;
    int32_t block_tokens, num_kv_heads, head_dim, requests;
    const int32_t *query_start;   // [requests + 1]
    const int32_t *q_positions;   // [rows]
    const int32_t *block_tables;  // [requests, max_blocks], by position; -1 = absent
    const int32_t *lengths;       // [requests]
    const int64_t *slot_mapping;  // [rows]
    int32_t max_blocks, reserved;
    const uint8_t *mask;          // bool [rows, mask_columns], 1 = hidden as well; or null
    int64_t mask_columns;
    int32_t kv_format;
    int32_t rotated;             // 1: queries, keys and values are rotated (hadamard.h) on their way in, results at the end
    uint8_t *open;
    int64_t open_block_bytes;    // of all layers of the group
    const int32_t *open_blocks;  // [requests, 2]: where the first and the last own block of the request's rows lie in `open`
    uint8_t *open_scratch;       // one layer of the own blocks in between, by the number / 64 of their first row in the step
};

struct tiercel_step {
    int32_t rows, samples, num_groups, reserved;
    const int32_t *token_ids;    // [rows]
    const int32_t *positions;    // [rows]
    const int32_t *sample_rows;  // [samples]
    const tiercel_group *groups;
    double *seconds;             // [num_instructions], time of each is added; or null
};

// How one row becomes a token; see ops/sampling.py, which defines every result.
struct tiercel_sampling {
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;
    int32_t sample_index, output_position;
    const uint32_t *mask;        // [ceil(vocab / 32)] or null
};

// Blocks in memory. A block is a run of segments, [block_tokens, head_dim] each in a tiercel_kv_format.
struct tiercel_blocks {
    uint8_t *data;
    int64_t block_bytes;  // from a block to the next
    const int32_t *ids;   // which blocks, in their order; null = 0, 1, 2 ...
    int32_t block_tokens, head_dim, kv_format;
    int32_t rotated;      // 1: rows are rotated (hadamard.h)
};

struct tiercel_pool;

int32_t tiercel_abi(void);
int32_t tiercel_best_level(void);  // the highest level that this processor and system allow; -1 = not even AVX2

// threads: the calling thread counts as one. Null if a thread cannot be started or the machine lacks the level.
tiercel_pool *tiercel_pool_create(int32_t threads, int32_t level);
void tiercel_pool_destroy(tiercel_pool *pool);

// 0, or the number + 1 of an instruction that cannot be run as it stands. One caller at a time per pool.
int32_t tiercel_run(tiercel_pool *pool, const tiercel_program *program, const tiercel_step *step, int32_t first, int32_t last);

// Bytes of a packed matrix, a multiple of 64; -1 where `columns` does not suit the format.
int64_t tiercel_packed_bytes(int32_t format, int32_t rows, int32_t columns);
// Packs rows as they are stored in files (GGUF blocks; BF16; F32 is rounded to BF16 or quantised): source_format says which.
// 0, or -1 where there is no way from one to the other.
int32_t tiercel_pack(tiercel_pool *pool, int32_t source_format, const uint8_t *source, int32_t format, int32_t rows,
                     int32_t columns, uint8_t *packed);
// Rows of a packed matrix as float32 [num_ids, columns].
void tiercel_unpack(const tiercel_matrix *matrix, const int32_t *ids, int32_t num_ids, float *out);

// One token per row of logits [rows, vocab] (stride in floats).
void tiercel_sample(tiercel_pool *pool, const float *logits, int64_t stride, int32_t vocab, int32_t rows,
                    const tiercel_sampling *settings, int32_t *token_ids);

// Copies segments first_segment .. last_segment - 1 of `count` blocks, from one format into another where they differ. Blocks
// that are written are neither read nor written a second time. 0, or -1 where the shapes differ or cannot be converted.
int32_t tiercel_copy_blocks(tiercel_pool *pool, const tiercel_blocks *from, const tiercel_blocks *to, int64_t count,
                            int32_t first_segment, int32_t last_segment);

// Machine limits, measured on the pool's threads; kind 0: bytes read per second over `bytes` of memory (at least 1 GiB to mean
// memory rather than cache), 1: bf16 and 2: int8 operations per second (a multiply-add counts as two) of the pool's level.
double tiercel_probe(tiercel_pool *pool, int32_t kind, const uint8_t *memory, int64_t bytes);
}

#pragma GCC visibility pop
