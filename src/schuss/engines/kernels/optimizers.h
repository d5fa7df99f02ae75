/* The optimizers of all compiled engines, as expressions on one parameter or a vector of them (DESIGN section 2).
 * v: velocity. G: gradient. eta: learning rate. mu: momentum. keep: 1 - eta lambda for weights, 1 for biases. */
#define SGD_VELOCITY(v, G, eta, mu) ((mu) * (v) - (eta) * (G))
#define SGD_MOVE(new_v) (new_v)
#define NESTEROV_MOVE(new_v, G, eta, mu) ((mu) * (new_v) - (eta) * (G))
#define MOVED(W, keep, move) ((keep) * (W) + (move))
