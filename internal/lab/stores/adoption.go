package stores

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// CompareAdoption compares the adoption of another process' token with a plain read, in
// turn. It is a benchmark of two processes' stores.
func CompareAdoption(b *testing.B, one, other tokensource.Store) {
	writer := &tokensource.Stored{Source: tokensource.Static(nil), Store: one, Key: "k"}
	reader := &tokensource.Stored{Source: tokensource.Static(nil), Store: other, Key: "k"}
	token := func(n int) *tokensource.Token { return &tokensource.Token{AccessToken: fmt.Sprint("access-", n)} }
	var reads, adoptions []time.Duration
	for n := 0; b.Loop(); n++ {
		if err := writer.Set(b.Context(), token(n)); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if _, err := other.Load(b.Context(), "k"); err != nil {
			b.Fatal(err)
		}
		read := time.Now()
		if got, err := reader.Token(b.Context(), token(n-1)); err != nil || got.AccessToken != token(n).AccessToken {
			b.Fatal(got, err)
		}
		reads, adoptions = append(reads, read.Sub(began)), append(adoptions, time.Since(read))
	}
	read, adoption := median(reads), median(adoptions)
	b.ReportMetric(float64(read.Microseconds()), "µs/read")
	b.ReportMetric(float64(adoption.Microseconds()), "µs/adoption")
	b.ReportMetric(float64(adoption-read)/float64(read), "more-reads/adoption")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
