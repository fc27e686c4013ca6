// Package clocks shows what the library does when the wall clock moves and the
// monotonic one does not: a machine is suspended, or its time is set. Its
// tests run with a package time in which the program moves the wall clock itself,
// so that the machine's stays untouched.
package clocks
