//go:build race

package transport_test

// The race detector allocates on its own account.
const raceEnabled = true
