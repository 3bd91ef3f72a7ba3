/* exp, tanh and the activations, on 16 lanes: included after a lanes_<isa>.h. The steps are the
 * same in every set, so the bits are too.
 *
 * One core: x = n ln2 + r with whole n and |r| <= ln2 / 2, and e^r = 1 + r t(r), where t is a
 * polynomial of degree 5 (our own minimax fit, error 1.3e-8 |r|). From it exp(x)     = (1 + r t)
 * 2^n expm1(x)   = r t 2^n + (2^n - 1), which loses nothing near 0 tanh(x)    = expm1(2x) /
 * (expm1(2x) + 2) sigmoid(x) = 1 / (1 + exp(-x));  silu = x sigmoid(x);  gelu_tanh = x sigmoid(2u),
 * since (1 + tanh u)/2 = sigmoid 2u gelu_erf   = x/2 * (x < 0 ? e : 2 - e), e = erfc(|x| / sqrt 2)
 * = exp(-f(|x| / sqrt 2)), f(t) = t * polynomial NaN in, NaN out. */
#ifndef NIB_KERNELS_VECMATH_H
#define NIB_KERNELS_VECMATH_H

typedef struct exp_parts {
    v16 n, r, t; /* e^x = (1 + r t) 2^n */
} exp_parts;

LANE exp_parts exp_split(v16 x) {
    const v16 magic = v_set1(0x1.8p23f); /* adding it leaves no fraction */
    exp_parts e;
    e.n = v_sub(v_fma(x, v_set1(0x1.715476p+0f), magic), magic);
    e.r = v_fma(e.n, v_set1(-0x1.62e430p-1f), x); /* ln2 = 0x1.62e430p-1 - 0x1.05c610p-29 */
    e.r = v_fma(e.n, v_set1(0x1.05c610p-29f), e.r);
    v16 t = v_fma(v_set1(0x1.6d990ep-10f), e.r, v_set1(0x1.1227fep-7f));
    t = v_fma(t, e.r, v_set1(0x1.555486p-5f));
    t = v_fma(t, e.r, v_set1(0x1.5554b0p-3f));
    t = v_fma(t, e.r, v_set1(0.5f));
    e.t = v_fma(t, e.r, v_set1(1.0f));
    return e;
}

/* At most 1 ulp off; 0 below -104, infinity above 88.73. */
LANE v16 v_exp(v16 x) {
    /* in this order of arguments NaN passes */
    exp_parts e = exp_split(v_max(v_set1(-104.0f), v_min(v_set1(89.0f), x)));
    return v_scale2(v_fma(e.r, e.t, v_set1(1.0f)), e.n);
}

LANE v16 v_tanh(v16 x) {
    v16 y = v_min(v_set1(20.0f), v_abs(v_add(x, x))); /* tanh 10 is 1 in floats */
    exp_parts e = exp_split(y);
    v16 p = v_scale2(v_set1(1.0f), e.n);
    v16 m = v_fma(p, v_mul(e.r, e.t), v_sub(p, v_set1(1.0f)));
    return v_copysign(v_div(m, v_add(m, v_set1(2.0f))), x);
}

/* cap tanh(x / cap) */
LANE v16 v_softcap(v16 x, float cap) {
    return v_mul(v_set1(cap), v_tanh(v_mul(x, v_set1(1.0f / cap))));
}

/* x sigmoid(y) */
LANE v16 v_gate(v16 x, v16 y) {
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_neg(y))));
}
LANE v16 v_silu(v16 x) {
    return v_gate(x, x);
}
LANE v16 v_gelu_tanh(v16 x) {
    /* 2 sqrt(2/pi) (x + 0.044715 x^3) */
    v16 u = v_fma(v_mul(x, x), v_set1(0.07135481627f), v_set1(1.595769122f));
    return v_gate(x, v_mul(x, u));
}

/* erfc(t) for t >= 0. f(t) = -ln erfc(t) is nearly quadratic: t times a polynomial of degree 9 (our
 * own minimax fit up to 4.5, weighted by erfc) errs by 1.3e-9 in erfc; above, where erfc < 2e-10,
 * it keeps growing. */
LANE v16 v_erfc(v16 t) {
    static const float c[] = {1.12837923f,      0.636618306f,   0.102782652f,     -0.0191568819f,
                              -0.000180158009f, 0.00172083824f, -0.000690691482f, 0.000149080711f,
                              -1.77720483e-05f, 9.10990989e-07f};
    v16 p = v_set1(c[9]);
    for (int i = 8; i >= 0; i--) p = v_fma(p, t, v_set1(c[i]));
    return v_exp(v_neg(v_mul(p, t)));
}
LANE v16 v_gelu_erf(v16 x) {
    v16 e = v_erfc(v_mul(v_abs(x), v_set1(0.7071067812f)));
    return v_mul(v_mul(x, v_set1(0.5f)), v_if_negative(x, e, v_sub(v_set1(2.0f), e)));
}
#endif
