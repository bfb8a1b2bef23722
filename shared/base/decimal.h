/* Numbers with a fraction as text, with a point whatever the process's locale says: the broker's is
 * its own, or its other plugins', affair, and what one process writes another one reads. */
#ifndef CULEX_BASE_DECIMAL_H
#define CULEX_BASE_DECIMAL_H

#include <stdbool.h>

#define DECIMAL_BYTES_MAX 40

/* 15 digits at most, and with a fraction, as Java writes it: 0.5, 1.0, 1.0E20. */
void decimal_text(double v, char out[static DECIMAL_BYTES_MAX]);
/* Is the whole text a decimal number? *out is set if so; too large a one is infinite. */
bool decimal_read(const char *text, double *out);

#endif
