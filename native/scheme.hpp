// How a step is cut into work for the threads of a team: items, a barrier, blocks, a barrier. The cut is a function of the
// plan alone, and sums are added in order, so the bits do not depend on who does what.
#pragma once
#include "network.hpp"

// One step of one member.
template <class T> struct Step {
  Batch batch;
  const T *current; // the parameters before it
  T *next;          // and after it
  T *velocity;
  Rule<T> rule;
};

template <class T> class Scheme {
public:
  virtual ~Scheme() = default;
  virtual int items() const = 0;                       // shares of the samples
  virtual int blocks() const = 0;                      // shares of the parameters
  virtual int rounds(const Batch &) const { return 1; } // how often items and blocks alternate in a step
  virtual void prepare(const T *) {}                   // before the first step on given parameters
  virtual void accumulate(int item, int round, const Step<T> &, TileBuffers<T> &) = 0;
  virtual bool update(int block, int round, const Step<T> &) = 0; // returns whether the new parameters are finite
  // After the items of the last round: the sums over samples of w c(y, a), and of w.
  virtual double cost() const = 0;
  virtual double weight() const = 0;
};
