/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Bob Jenkins' lookup3 for whole words, from its published description. */
#ifndef CPLANE_JHASH_H
#define CPLANE_JHASH_H

#define JHASH_START 0xdeadbeef

struct jhash {
	u32 a;
	u32 b;
	u32 c;
};

static __always_inline u32 jhash_rotated(u32 word, const u32 bits)
{
	return word << bits | word >> (32 - bits);
}

/* One step of mixing, after which the words change places. */
static __always_inline void jhash_turn(struct jhash *h, const u32 bits)
{
	u32 a = (h->a - h->c) ^ jhash_rotated(h->c, bits);
	u32 c = h->c + h->b;

	h->a = h->b;
	h->b = c;
	h->c = a;
}

/* Between blocks of three words. */
static __always_inline void jhash_mix(struct jhash *h)
{
	jhash_turn(h, 4);
	jhash_turn(h, 6);
	jhash_turn(h, 8);
	jhash_turn(h, 16);
	jhash_turn(h, 19);
	jhash_turn(h, 4);
}

/* After the last block. */
static __always_inline u32 jhash_final(struct jhash *h)
{
	u32 c = (h->c ^ h->b) - jhash_rotated(h->b, 14);
	u32 a = (h->a ^ c) - jhash_rotated(c, 11);
	u32 b = (h->b ^ a) - jhash_rotated(a, 25);

	c = (c ^ b) - jhash_rotated(b, 16);
	a = (a ^ c) - jhash_rotated(c, 4);
	b = (b ^ a) - jhash_rotated(a, 14);
	return (c ^ b) - jhash_rotated(b, 24);
}

static __always_inline u32 jhash_3words(u32 first, u32 second, u32 third, u32 seed)
{
	u32 start = JHASH_START + 3 * sizeof(u32) + seed;
	struct jhash h = { .a = start + first, .b = start + second, .c = start + third };

	return jhash_final(&h);
}

#endif
