#include "shallow.hpp"

template class ShallowStep<float>;
template class ShallowStep<double>;
