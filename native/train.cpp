// The C interface of the CPU engine: schuss.h, for float and double.
#include <cstdio>
#include <stdexcept>

#include "machine.hpp"
#include "peak.hpp"
#include "predict.hpp"
#include "trainer.hpp"

namespace {

template <size_t n> int32_t code_of(const char *const (&names)[n], const char *name) {
  for (size_t i = 0; i < n; i++)
    if (std::strcmp(names[i], name) == 0) return (int32_t)i;
  return -1;
}

thread_local char error_text[256];

// Do the work of a function of the interface, which lets no exception through; returns its code.
template <class Work> int32_t guarded(Work work) noexcept {
  try {
    work();
    return 0;
  } catch (const std::exception &error) {
    std::snprintf(error_text, sizeof error_text, "%s", error.what());
    return dynamic_cast<const std::bad_alloc *>(&error) || dynamic_cast<const std::length_error *>(&error) ? 1 : 2;
  } catch (...) {
    std::snprintf(error_text, sizeof error_text, "an unknown error");
    return 2;
  }
}

} // namespace

#if defined(__aarch64__)
int32_t schuss_built_level(void) { return 1; }
#else
int32_t schuss_built_level(void) { return vector_bytes == 64 ? 4 : vector_bytes == 32 ? 3 : 0; }
#endif
int32_t schuss_machine_level(void) { return machine_level(); }

int32_t schuss_activation(const char *name) { return code_of(activation::names, name); }
int32_t schuss_cost(const char *name) { return code_of(cost::names, name); }

const char *schuss_error(void) { return error_text; }

int32_t schuss_open(const schuss_plan *plan, void *parameters, const schuss_data *training, const schuss_data *validation,
                    schuss_session **opened) {
  return guarded([=] {
    if (plan->network.element == 4) *opened = new Trainer<float>(*plan, (float *)parameters, *training, validation);
    else *opened = new Trainer<double>(*plan, (double *)parameters, *training, validation);
  });
}
void schuss_close(schuss_session *session) { delete session; }
int32_t schuss_fill(schuss_session *session, int32_t which, int64_t first, int64_t count, const void *x, const void *y,
                    const void *weights) {
  return guarded([=] { session->fill(which, first, count, x, y, weights); });
}
int32_t schuss_begin(schuss_session *session, const schuss_watch *watch, const schuss_optimizer *optimizer) {
  return guarded([=] { session->begin(*watch, *optimizer); });
}
int32_t schuss_advance(schuss_session *session, int64_t first_step, int64_t steps, const schuss_optimizer *optimizer,
                       double *costs, double *validation_costs) {
  return guarded([=] { session->advance(first_step, steps, *optimizer, costs, validation_costs); });
}
void schuss_restore_best(schuss_session *session) { session->restore_best(); }
int32_t schuss_gradient(schuss_session *session, int64_t step, double *costs, void *gradients) {
  return guarded([=] { session->gradient(step, costs, gradients); });
}
void *schuss_state(schuss_session *session, int32_t which, int64_t *bytes) { return session->state(which, bytes); }

const char *schuss_scheme(schuss_session *session, int32_t *threads) { return session->scheme(threads); }

int32_t schuss_predict(const schuss_network *network, const void *parameters, int64_t members, const void *x, int64_t samples,
                       int32_t threads, void *outputs) {
  return guarded([=] {
    if (network->element == 4)
      predict(*network, (const float *)parameters, members, (const float *)x, samples, threads, (float *)outputs);
    else predict(*network, (const double *)parameters, members, (const double *)x, samples, threads, (double *)outputs);
  });
}

namespace {
template <class T> double limit(int32_t which, int32_t threads, double seconds) {
  if (which == 0) return fma_peak<T>(threads, seconds);
  if (which == 1) return read_bandwidth(threads, seconds);
  if (which == 2) return barrier_rate(threads, seconds);
  return activation_rate<T>(which - 3, threads, seconds);
}
} // namespace

int32_t schuss_limit(int32_t which, int32_t element, int32_t threads, double seconds, double *found) {
  return guarded([=] { *found = element == 4 ? limit<float>(which, threads, seconds) : limit<double>(which, threads, seconds); });
}
