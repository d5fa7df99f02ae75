/* Load libraries of the engine, as Python does, and train with each: where there is no Python, this shows that they run.
 *
 * smoke LIBRARY...: a line for each with the instruction sets it was built for and this machine has, the first and the last cost,
 * and a sum of the bits of the parameters, which must not depend on the number of threads. */
#include "schuss.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { inputs = 4, hidden = 32, second = 16, samples = 500, batch = 100, epochs = 20 };
enum { parameters = (inputs + 1) * hidden + (hidden + 1) * second + second + 1, steps = epochs * (samples / batch) };

static void *function(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (!found) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return found;
}

/* A number from -1 to 1, of Knuth's linear congruential generator. */
static double uniform(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (double)(*state >> 40) / (1 << 23) - 1;
}

typedef struct {
  double first, last; /* costs */
  uint64_t bits;      /* of the parameters, summed by FNV-1a */
} outcome;

static outcome train(void *library, int threads) {
  static double x[samples][inputs], y[samples], w[parameters];
  uint64_t state = 1;
  for (int i = 0; i < samples; i++) {
    y[i] = 0;
    for (int k = 0; k < inputs; k++) y[i] += x[i][k] = uniform(&state);
  }
  for (int i = 0; i < parameters; i++) w[i] = uniform(&state) / 4;

  const __typeof__(&schuss_activation) activation = (__typeof__(&schuss_activation))function(library, "schuss_activation");
  const __typeof__(&schuss_cost) cost = (__typeof__(&schuss_cost))function(library, "schuss_cost");
  const __typeof__(&schuss_open) open = (__typeof__(&schuss_open))function(library, "schuss_open");
  const __typeof__(&schuss_begin) begin = (__typeof__(&schuss_begin))function(library, "schuss_begin");
  const __typeof__(&schuss_advance) advance = (__typeof__(&schuss_advance))function(library, "schuss_advance");
  const __typeof__(&schuss_close) close = (__typeof__(&schuss_close))function(library, "schuss_close");

  const int32_t sizes[] = {inputs, hidden, second, 1};
  const int32_t activations[] = {activation("sigmoid"), activation("tanh"), activation("linear")};
  const uint64_t seeds[] = {1};
  const double options[] = {0}, penalties[] = {0, 0}, rates[] = {0.1, 0, 0.9, 0, 0, 0};
  schuss_plan plan = {.network = {3, sizeof(double), sizes, activations}, .cost = cost("quadratic"), .group = 1};
  plan.cost_options = options, plan.penalties = penalties, plan.threads = threads, plan.members = 1, plan.batch = batch;
  plan.shuffle_seeds = plan.noise_seeds = seeds;
  const schuss_data data = {.samples = samples, .x = x, .y = y, .total_weight = samples};
  const schuss_watch watch = {.every = 1, .last_epoch = epochs, .patience = -1, .fresh = 1};
  const schuss_optimizer sgd = {.kind = schuss_sgd, .bias_momentum = 1, .rates = rates};
  double costs[epochs];
  schuss_session *session = NULL;
  if (open(&plan, w, &data, NULL, &session) || begin(session, &watch, &sgd) || advance(session, 0, steps, &sgd, costs, NULL)) {
    fprintf(stderr, "a function of the interface failed\n");
    exit(1);
  }
  close(session);

  uint64_t bits = 14695981039346656037u;
  for (size_t i = 0; i < sizeof w; i++) bits = (bits ^ ((unsigned char *)w)[i]) * 1099511628211u;
  return (outcome){costs[0], costs[epochs - 1], bits};
}

int main(int count, char **names) {
  for (int i = 1; i < count; i++) {
    void *library = dlopen(names[i], RTLD_NOW);
    if (!library) {
      fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
    const int built = ((__typeof__(&schuss_built_level))function(library, "schuss_built_level"))();
    const int machine = ((__typeof__(&schuss_machine_level))function(library, "schuss_machine_level"))();
    if (built > machine) {
      printf("%s: built for level %d, this machine has %d\n", strrchr(names[i], '/') + 1, built, machine);
      continue;
    }
    const outcome one = train(library, 1), three = train(library, 3);
    if (one.bits != three.bits || !(one.last < one.first / 2)) {
      fprintf(stderr, "%s: costs %g to %g, bits %016llx and %016llx\n", names[i], one.first, one.last,
              (unsigned long long)one.bits, (unsigned long long)three.bits);
      return 1;
    }
    printf("%s level %d of %d, cost %.6g to %.6g, bits %016llx\n", strrchr(names[i], '/') + 1, built, machine, one.first,
           one.last, (unsigned long long)one.bits);
  }
  return 0;
}
