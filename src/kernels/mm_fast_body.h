/* FAST (mm.h): how the scales of a group become the multipliers that round its weights to 8 bits.
 * Written once on 16 lanes, one a row; the including file has its lanes_<isa>.h before. */
#include "kernels/mm.h"

typedef struct fast_scales {
    _Alignas(64) float mul[16][NIB_PANEL]; /* in: scales of the parts; out: r(scale), whole */
    float add[16][NIB_PANEL];              /* in: minima where there are; out: c */
    float s[NIB_PANEL];                    /* out: S */
} fast_scales;

/* What a format's codes are, for FAST. */
typedef struct fast_format {
    bool min, wide; /* wide: values of 8 bits */
    int part;       /* columns that share a scale */
    int excess, cmax;
} fast_format;
INLINE fast_format fast_format_of(nib_dtype t) {
    switch (t) {
    case NIB_Q4_0: return (fast_format){false, false, 32, 8, 8};
    case NIB_Q5_0: return (fast_format){false, false, 32, 16, 16};
    case NIB_Q4_1: return (fast_format){true, false, 32, 0, 15};
    case NIB_Q5_1: return (fast_format){true, false, 32, 0, 31};
    case NIB_Q4_K: return (fast_format){true, false, 32, 0, 15};
    case NIB_Q5_K: return (fast_format){true, false, 32, 0, 31};
    case NIB_Q2_K: return (fast_format){true, false, 16, 0, 3};
    case NIB_Q3_K: return (fast_format){false, false, 16, 4, 4};
    case NIB_Q6_K: return (fast_format){false, false, 16, 32, 32};
    default: return (fast_format){false, true, 32, 0, 127}; /* Q8_0 IQ4_NL IQ4_XS */
    }
}

/* n parts. */
INLINE void fast_requantise(fast_format f, int n, fast_scales *o) {
    const v16 magic = v_set1(0x1.8p23f), lowest = v_set1(-32768), highest = v_set1(32767);
    const v16 cmax = v_set1((float)f.cmax);
    v16 most = v_set1(0), odd = v_set1(0);
    for (int j = 0; j < n; j++) {
        v16 scale = v_load(o->mul[j]), bound;
        if (f.min) {
            v16 min = v_load(o->add[j]);
            bound = v_max(v_abs(min), v_abs(v_fma(scale, cmax, min)));
            odd = v_add(odd, v_sub(min, min));
        } else {
            bound = v_mul(v_abs(scale), cmax);
        }
        odd = v_add(odd, v_sub(scale, scale)); /* NaN for those that are no number */
        most = v_max(most, bound);
    }
    v16 by = v_div(v_set1(f.wide ? 127 * 32768.0f : 127 * 256.0f), most);
    v_store(o->s, v_add(v_div(most, v_set1(127)), odd));
    for (int j = 0; j < n; j++) {
        v16 m = v_min(v_max(v_mul(v_load(o->mul[j]), by), lowest), highest);
        m = v_sub(v_add(m, magic), magic);
        v_store(o->mul[j], m);
        if (f.wide) continue;
        v16 c = v_set1(128);
        if (f.min) {
            v16 min = v_min(v_max(v_mul(v_load(o->add[j]), by), lowest), highest);
            c = v_add(c, v_sub(v_add(min, magic), magic));
        }
        v_store(o->add[j], v_sub(c, v_mul(m, v_set1((float)f.excess))));
    }
}
