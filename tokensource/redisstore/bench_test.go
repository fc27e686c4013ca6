//go:build unix

package redisstore_test

import (
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/stores"
)

func BenchmarkAdoption(b *testing.B) {
	s := newServer(b)
	stores.CompareAdoption(b, s.store(), s.store())
}
