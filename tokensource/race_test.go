//go:build race

package tokensource_test

// The race detector allocates on its own account.
const raceEnabled = true
