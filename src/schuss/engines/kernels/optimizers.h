/* The optimizers of all compiled engines, as expressions on one parameter or a vector of them (DESIGN section 2).
 * v: velocity, or first moment. s: mean square of the gradient. G: gradient. eta: learning rate. mu: momentum, or beta1.
 * rho: beta2, or the decay of the mean square. keep: 1 - eta lambda for weights, 1 for biases. */
#define SGD_VELOCITY(v, G, eta, mu) ((mu) * (v) - (eta) * (G))
#define SGD_MOVE(new_v) (new_v)
#define NESTEROV_MOVE(new_v, G, eta, mu) ((mu) * (new_v) - (eta) * (G))
#define MEAN_OF(old, now, share) ((share) * (old) + (1 - (share)) * (now))
#define RMSPROP_VELOCITY(v, G, new_s, eta, mu, epsilon) ((mu) * (v) - (eta) * (G) / (SQRT(new_s) + (epsilon)))
/* step: eta / (1 - beta1^t). spread: 1 / sqrt(1 - beta2^t). */
#define ADAM_MOVE(new_v, new_s, step, spread, epsilon) (-(step) * (new_v) / (SQRT(new_s) * (spread) + (epsilon)))
#define MOVED(W, keep, move) ((keep) * (W) + (move))
