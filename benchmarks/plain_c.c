/* The training step of the default network in plain C: the yardstick of the backend `floor`.
 *
 * No intrinsics and no tricks that a competent C programmer would not use: rows of B paths are
 * contiguous, so that the compiler can put neighbouring paths into one vector; sizes are constants
 * of the compilation; the two linear layers of the head, with no activation in between, are one
 * vector; weight gradients are summed on the way back, where h and delta are still in the cache.
 *
 * cc -O3 -march=native -ffast-math -shared -fPIC -DSTEPS=100 -DBATCH=32 -DHIDDEN=10 plain_c.c -lm
 */
#include <math.h>

enum { T = STEPS, B = BATCH, H = HIDDEN, D = 20 };

/* A row of b_h, W_xh and the like is [H]; weights are [out][in], as in harness/backend/model.py. */
typedef struct {
    float h0[H], W_xh[H], W_hh[H][H], b_h[H], W_1[D][H], b_1[D], W_2[D], b_2;
} Params;

enum { COUNT = sizeof(Params) / sizeof(float) };

/* x P(x^2) / Q(x^2), the rational approximation of Eigen; within three units in the last place. */
static inline float fast_tanh(float x) {
    x = x > 7.9f ? 7.9f : x < -7.9f ? -7.9f : x;
    float s = x * x;
    float p = 1 + s * (1.340216100e-1f + s * (3.520756727e-3f + s * (2.102733560e-5f + s * 1.394553628e-8f)));
    float q = 1 + s * (4.673548340e-1f + s * (2.597254514e-2f + s * (3.326951409e-4f + s * 8.015776984e-7f)));
    return x * p / q;
}

/* h_TB[t] is the state before step t; returns the loss and leaves its gradient in `g`. */
static float loss_and_gradient(const Params *p, const float x[T + 1][B], const float y[T][B],
                               Params *g) {
    static float h[T + 2][H][B], g_out[T + 1][B];
    float v[H] = {0}, g_v[H] = {0}, c = p->b_2, loss = 0, g_c = 0;
    for (int d = 0; d < D; d++) {
        c += p->W_2[d] * p->b_1[d];
        for (int k = 0; k < H; k++) v[k] += p->W_2[d] * p->W_1[d][k];
    }
    *g = (Params){0};

    for (int k = 0; k < H; k++)
        for (int b = 0; b < B; b++) h[0][k][b] = p->h0[k];
    for (int t = 0; t <= T; t++) {
        for (int i = 0; i < H; i++) {
            for (int b = 0; b < B; b++) {
                float z = p->b_h[i] + p->W_xh[i] * x[t][b];
                for (int k = 0; k < H; k++) z += p->W_hh[i][k] * h[t][k][b];
                h[t + 1][i][b] = fast_tanh(z);
            }
        }
        for (int b = 0; b < B; b++) g_out[t][b] = 0;
        if (t == 0) continue; /* The first output is not scored. */
        float out[B];
        for (int b = 0; b < B; b++) out[b] = c - y[t - 1][b];
        for (int k = 0; k < H; k++)
            for (int b = 0; b < B; b++) out[b] += v[k] * h[t + 1][k][b];
        for (int b = 0; b < B; b++) {
            loss += out[b] * out[b];
            g_out[t][b] = 2.0f / (T * B) * out[b];
            g_c += g_out[t][b];
        }
    }

    float past[H][B] = {0}, delta[H][B];
    for (int t = T; t >= 0; t--) {
        for (int k = 0; k < H; k++)
            for (int b = 0; b < B; b++) {
                float state = h[t + 1][k][b];
                g_v[k] += g_out[t][b] * state;
                delta[k][b] = (past[k][b] + v[k] * g_out[t][b]) * (1 - state * state);
                g->b_h[k] += delta[k][b];
                g->W_xh[k] += delta[k][b] * x[t][b];
            }
        for (int i = 0; i < H; i++)
            for (int k = 0; k < H; k++) {
                float sum = 0;
                for (int b = 0; b < B; b++) sum += delta[i][b] * h[t][k][b];
                g->W_hh[i][k] += sum;
            }
        for (int k = 0; k < H; k++) {
            for (int b = 0; b < B; b++) {
                float sum = 0;
                for (int i = 0; i < H; i++) sum += p->W_hh[i][k] * delta[i][b];
                past[k][b] = sum;
            }
        }
    }

    for (int k = 0; k < H; k++)
        for (int b = 0; b < B; b++) g->h0[k] += past[k][b];
    g->b_2 = g_c;
    for (int d = 0; d < D; d++) {
        g->b_1[d] = p->W_2[d] * g_c;
        g->W_2[d] = p->b_1[d] * g_c;
        for (int k = 0; k < H; k++) {
            g->W_1[d][k] = p->W_2[d] * g_v[k];
            g->W_2[d] += p->W_1[d][k] * g_v[k];
        }
    }
    return loss / (T * B);
}

/* Adam: Kingma and Ba 2015, algorithm 1. `step` counts the updates, this one included. */
static void adam(float *p, const float *g, float *mean, float *square, int step, float rate) {
    float mean_scale = rate / (1 - powf(0.9f, step)), square_scale = 1 / (1 - powf(0.999f, step));
    for (int i = 0; i < COUNT; i++) {
        mean[i] = 0.9f * mean[i] + 0.1f * g[i];
        square[i] = 0.999f * square[i] + 0.001f * g[i] * g[i];
        p[i] -= mean_scale * mean[i] / (sqrtf(square_scale * square[i]) + 1e-8f);
    }
}

/* One optimiser step per epoch; p, mean and square are [COUNT], in the order of `Params`. */
void train(float *p, float *mean, float *square, int done, int epochs, float rate,
           const float x[][T + 1][B], const float y[][T][B], float *losses) {
    for (int e = 0; e < epochs; e++) {
        Params g;
        losses[e] = loss_and_gradient((const Params *)p, x[e], y[e], &g);
        adam(p, (const float *)&g, mean, square, done + e + 1, rate);
    }
}
