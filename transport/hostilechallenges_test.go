package transport_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/transport"
)

func TestAHeaderOfHundredsOfKilobytesIsPassedOver(t *testing.T) {
	line := "Bearer " + strings.Repeat("a", 300<<10) + "==" + strings.Repeat(",a=b", 75<<10)
	resp := &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {line, `Bearer error="invalid_token"`}}}
	if got := transport.Challenges(resp); len(got) != 1 || got[0].Params["error"] != "invalid_token" {
		t.Errorf("got %d challenges, want the one beside it", len(got))
	}
}

func TestTenMegabytesOfChallengesAreNotTakenApart(t *testing.T) {
	lines := make([]string, 170)
	for i := range lines {
		lines[i] = strings.Repeat("a b=c,", 10_000)
	}
	resp := &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": lines}}
	if got := len(transport.Challenges(resp)); got > 11_000 {
		t.Errorf("%d challenges, want no more than 64 KiB hold", got)
	}
}

// Each line is 64 KiB that would take milliseconds, or make thousands of challenges.
func hostileLines() map[string]string {
	const n = 64 * kib
	distinct := strings.Builder{}
	for i := 0; distinct.Len() < n-20; i++ {
		fmt.Fprintf(&distinct, "%x=,", i)
	}
	return map[string]string{
		"a token68 and parameters": "Bearer " + strings.Repeat("a", n/2-20) + "/=" + strings.Repeat(",b=", n/6-10),
		"challenges":               strings.Repeat("a ,", n/3),
		"challenges, parameters":   strings.Repeat("a b=,", n/5),
		"parameters":               "Bearer " + distinct.String()[:n-20],
		"schemes":                  strings.Repeat("a ", n/2),
		"quotes":                   strings.Repeat(`a "`, n/3),
		"backslashes":              `Bearer a="` + strings.Repeat(`\a`, n/2-20),
		"spaces":                   "a" + strings.Repeat(" ", n-2),
	}
}

func TestAtMostFiveHundredChallengesAndParametersAreRead(t *testing.T) {
	for name, line := range hostileLines() {
		count := 0
		for _, c := range transport.Challenges(&http.Response{Header: http.Header{"Www-Authenticate": {line, "Last"}}}) {
			count += 1 + len(c.Params)
		}
		if count > 500 {
			t.Errorf("%s: got %d challenges and parameters, want at most 500", name, count)
		}
	}
}

func BenchmarkHostileChallenges(b *testing.B) {
	for name, line := range hostileLines() {
		resp := &http.Response{Header: http.Header{"Www-Authenticate": {line}}}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				transport.Challenges(resp)
			}
		})
	}
}
