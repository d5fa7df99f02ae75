// L-BFGS (Liu and Nocedal, 1989): the direction from pairs of steps and changes of the gradient, and a line search that finds a step
// with the strong Wolfe conditions (Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 3.5 and 3.6). Where to
// evaluate next is decided here; evaluating is the Trainer's. The same in NumPy: schuss/engines/lbfgs.py.
#pragma once
#include <limits>

#include "network.hpp"

// A step t along a direction: the cost there, and its slope along the direction.
struct Point {
  double t, cost, slope;
};

class LineSearch {
public:
  // noise: how far two costs may differ by rounding alone.
  LineSearch(double cost, double slope, double first, double noise)
      : start_{0, cost, slope}, low_(start_), high_(start_), noise_(noise), next_(first) {}
  double next() const { return next_; }       // where to evaluate
  double accepted() const { return low_.t; }  // after the end; 0: no step lowers the cost

  // Takes what was found at next(); returns whether the search is over.
  bool take(double cost, double slope) {
    const Point now{next_, cost, slope};
    const bool finite = std::isfinite(cost) && std::isfinite(slope);
    const bool high = !finite || cost > start_.cost + decrease * now.t * start_.slope + noise_;
    if (!high && std::abs(slope) <= -curvature * start_.slope) {
      low_ = now;
      return true;
    }
    if (++evaluations_ == most) {
      if (!high && cost < low_.cost) low_ = now;
      return true;
    }
    if (!bracketed_) {
      if (high || (low_.t > 0 && cost >= low_.cost)) high_ = now, bracketed_ = true;
      else if (slope >= 0) high_ = low_, low_ = now, bracketed_ = true;
      else {
        const double further = minimum(low_, now);
        next_ = std::min(std::max(further > now.t ? further : 0, 2 * now.t), 10 * now.t);
        low_ = now;
        return false;
      }
    } else if (high || cost >= low_.cost) high_ = now;
    else {
      if (slope * (high_.t - low_.t) >= 0) high_ = low_;
      low_ = now;
    }
    const double width = high_.t - low_.t, middle = low_.t + 0.5 * width;
    if (std::abs(width) <= 1e-10 * std::max(low_.t, high_.t)) return true;
    next_ = std::isfinite(high_.cost) && std::isfinite(high_.slope) ? minimum(low_, high_) : middle;
    const double share = (next_ - low_.t) / width;
    if (!(share > 0.1 && share < 0.9)) next_ = share <= 0.1 ? low_.t + 0.1 * width : share >= 0.9 ? low_.t + 0.9 * width : middle;
    return false;
  }

private:
  static constexpr double decrease = 1e-4, curvature = 0.9;
  static constexpr int most = 20;

  // Where the cubic through two points with their slopes has its minimum; NaN if it has none.
  static double minimum(const Point &a, const Point &b) {
    const double d1 = a.slope + b.slope - 3 * (a.cost - b.cost) / (a.t - b.t);
    const double root = std::sqrt(d1 * d1 - a.slope * b.slope), d2 = b.t > a.t ? root : -root;
    return b.t - (b.t - a.t) * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2);
  }

  Point start_, low_, high_; // low: the best so far
  double noise_, next_;
  bool bracketed_ = false;
  int evaluations_ = 0;
};

constexpr int most_pairs = 100;

// direction <- - H gradient, H the estimate of the inverse Hessian that the pairs give. pairs: [history][2][p], steps and changes of
// the gradient, the pair of number i in place i % history; kept: how many there ever were.
template <class T>
void lbfgs_direction(const T *pairs, int64_t kept, int history, ptrdiff_t p, const T *gradient, T *direction) {
  const int64_t first = std::max<int64_t>(0, kept - history);
  double share[most_pairs], curvature[most_pairs];
  const auto step_of = [&](int64_t i) { return pairs + (i % history) * 2 * p; };
  const auto add = [&](double factor, const T *v) {
    for (ptrdiff_t k = 0; k < p; k++) direction[k] += T(factor) * v[k];
  };
  for (ptrdiff_t k = 0; k < p; k++) direction[k] = -gradient[k];
  for (int64_t i = kept - 1; i >= first; i--) {
    const T *s = step_of(i), *y = s + p;
    curvature[i % history] = dot(s, y, p);
    share[i % history] = dot(s, direction, p) / curvature[i % history];
    add(-share[i % history], y);
  }
  if (kept > 0) {
    const T *y = step_of(kept - 1) + p;
    const T scale = T(curvature[(kept - 1) % history] / dot(y, y, p));
    for (ptrdiff_t k = 0; k < p; k++) direction[k] *= scale;
  }
  for (int64_t i = first; i < kept; i++) {
    const T *s = step_of(i), *y = s + p;
    add(share[i % history] - dot(y, direction, p) / curvature[i % history], s);
  }
}
