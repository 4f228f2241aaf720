/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* CONFIG(name): the only door to compile-time values. A value is declared with its default beside its use,
 * as CONFIG_<name>, and replaced by -D from datapath/source/defines.py, which knows the same names.
 */
#ifndef CPLANE_CONFIG_H
#define CPLANE_CONFIG_H

#define CONFIG(name) CONFIG_##name

#endif
