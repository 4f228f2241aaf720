/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How long what is remembered of a connection outlives its last packet. */
#ifndef CPLANE_LIFETIME_H
#define CPLANE_LIFETIME_H

/* Seconds, with Cilium's defaults. */
#ifndef CONFIG_ct_tcp_s
#define CONFIG_ct_tcp_s 8000
#endif
#ifndef CONFIG_ct_tcp_syn_s
#define CONFIG_ct_tcp_syn_s 60
#endif
#ifndef CONFIG_ct_tcp_closing_s
#define CONFIG_ct_tcp_closing_s 10
#endif
#ifndef CONFIG_ct_any_s
#define CONFIG_ct_any_s 60
#endif

#endif
