/* The costs of all compiled engines, one pair of lines a row: COST(name, value, derivative).
 * value is the share c of one output in the cost of a sample, derivative is dc/da; both of the target y and the output a. */
COST(quadratic, CONST(0.5) * (a - y) * (a - y),
     a - y)
