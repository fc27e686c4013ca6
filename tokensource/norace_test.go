//go:build !race

package tokensource_test

const raceEnabled = false
