/* Randomness of all compiled engines: that of schuss/philox.py, on one number or a vector of them. */
#define FEISTEL_ROUNDS 6

/* Philox 4x32-10: four random words for a counter. */
static inline void philox(const uint32_t counter[4], uint64_t seed, uint32_t words[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ key0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ key1;
    c3 = (uint32_t)p0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/* Eight words that key the shuffle of an epoch. */
static inline void shuffle_keys(uint64_t seed, uint64_t epoch, uint32_t keys[8]) {
  for (uint32_t part = 0; part < 2; part++) {
    const uint32_t counter[4] = {(uint32_t)epoch, (uint32_t)(epoch >> 32), 2, part};
    philox(counter, seed, keys + 4 * part);
  }
}

/* Four words that key the dropout of a layer (1..L) in a step, or the noise of the inputs (layer 0). */
static inline void noise_keys(uint64_t seed, uint64_t step, uint32_t layer, uint32_t keys[4]) {
  const uint32_t counter[4] = {(uint32_t)step, (uint32_t)(step >> 32), 7, layer};
  philox(counter, seed, keys);
}

/* x <- a random word for a sample (its position in the batch) and a unit. UINT: uint32_t or a vector of them. */
#define NOISE_WORD(UINT, x, position, unit, keys)     \
  do {                                                \
    UINT own = ((unit) ^ (keys)[0]) * 0x2C1B3C6Du;    \
    own ^= own >> 15;                                 \
    own *= 0x297A2D39u;                               \
    own ^= own >> 16;                                 \
    (x) = ((position) + own) ^ (keys)[1];             \
    (x) *= 0xD2511F53u;                               \
    (x) ^= ((x) >> 15) ^ (keys)[2];                   \
    (x) *= 0xCD9E8D57u;                               \
    (x) ^= ((x) >> 16) ^ (keys)[3];                   \
    (x) += own * 0x9E3779B9u;                         \
    (x) *= 0x2C1B3C6Du;                               \
    (x) ^= (x) >> 15;                                 \
    (x) *= 0x297A2D39u;                               \
    (x) ^= (x) >> 16;                                 \
  } while (0)

/* Permute the numbers x below 2^bits, in place. UINT: uint32_t or a vector of them. */
#define FEISTEL(UINT, x, bits, keys)                                                  \
  do {                                                                                \
    int right_bits = (bits) / 2, left_bits = (bits) - right_bits;                     \
    UINT left = (x) >> right_bits, right = (x) & ((1u << right_bits) - 1);            \
    for (int round = 0; round < FEISTEL_ROUNDS; round++) {                            \
      UINT mixed = (right ^ (keys)[round]) * 0xD2511F53u;                             \
      mixed ^= mixed >> 15;                                                           \
      mixed *= 0xCD9E8D57u;                                                           \
      mixed ^= mixed >> 16;                                                           \
      const UINT was_right = right;                                                   \
      right = (left ^ mixed) & ((1u << left_bits) - 1);                               \
      left = was_right;                                                               \
      const int was_left_bits = left_bits;                                            \
      left_bits = right_bits;                                                         \
      right_bits = was_left_bits;                                                     \
    }                                                                                 \
    (x) = (left << right_bits) | right;                                               \
  } while (0)

/* How often a resampling holds row x: a Poisson(1) number, keyed by four words. */
static inline uint32_t bootstrap_weight(uint32_t x, const uint32_t keys[4]) {
  x = (x ^ keys[0]) * 0xD2511F53u;
  x ^= (x >> 15) ^ keys[1];
  x *= 0xCD9E8D57u;
  x ^= (x >> 16) ^ keys[2];
  x *= 0x2C1B3C6Du;
  x ^= (x >> 15) ^ keys[3];
  x *= 0x297A2D39u;
  x ^= x >> 16; /* below: 2^32 times the distribution function of Poisson(1) at 0..7 */
  return (x >= 1580030168u) + (x >= 3160060337u) + (x >= 3950075421u) + (x >= 4213413783u) + (x >= 4279248373u) +
         (x >= 4292415291u) + (x >= 4294609777u) + (x >= 4294923276u);
}
