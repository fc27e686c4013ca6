// Package foreign has the examples of the pages in docs that need modules of
// others, and tests of what they say of these modules.
package foreign
