package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if isServers() {
		serve()
		return
	}
	m.Run()
}

// measured returns what a small scenario gives for one peer.
func measured(t *testing.T, scenario func(sizes) scenario, p peer) map[string]float64 {
	t.Helper()
	s, err := scenario(quick).measure(t.Context(), quick, p)
	if err != nil {
		t.Fatal(err)
	}
	if s.words != "" {
		t.Fatalf("got %q, want numbers", s.words)
	}
	return s.values
}

// expect compares some of them.
func expect(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s: got %v, want %v", name, got[name], n)
		}
	}
}

func TestAStormCostsOneTokenRequest(t *testing.T) {
	t.Parallel()
	expect(t, measured(t, storm, ours), map[string]float64{"tokens": 1, "failed": 0})
}

func TestARevocationCostsOneTokenRequest(t *testing.T) {
	t.Parallel()
	expect(t, measured(t, revocation, ours), map[string]float64{"tokens": 1, "failed": 0, "often": 0, "recovers": 1})
}

func TestLateRefusalsCostNoTokenRequest(t *testing.T) {
	t.Parallel()
	expect(t, measured(t, lateRefusals, ours), map[string]float64{"tokens": 0, "failed": 0})
}

func TestAFirstCallerWhoGivesUpHarmsNobody(t *testing.T) {
	t.Parallel()
	expect(t, measured(t, cancelled, ours), map[string]float64{"tokens": 1, "failed": 0})
}

func TestAnOutageOfTwoSecondsCostsAtMostTwelveTokenRequests(t *testing.T) {
	t.Parallel()
	if got := measured(t, outage, ours)["tokens"]; got < 1 || got > 12 {
		t.Errorf("got %v token requests, want 1 to 12", got)
	}
}

func TestNoRedirectLeaksAToken(t *testing.T) {
	t.Parallel()
	expect(t, measured(t, redirects, ours), map[string]float64{"leaked": 0, "strange": 3})
}

func TestProcessesShareARefreshToken(t *testing.T) {
	t.Parallel()
	expect(t, measured(t, processes, ours), map[string]float64{"failed": 0})
}

func TestARefusedBodyIsSentAgainWhole(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{64 << 10, 1 << 20} {
		got := measured(t, func(sizes) scenario { return bodies(n) }, ours)["outcome"]
		if outcome := outcomes[int(got)]; outcome != "sent again, whole" {
			t.Errorf("%s: got %q", unit(n), outcome)
		}
	}
}

// What the library passes, a transport that is written by hand does not: the
// scenarios see what they are there to see.
func TestTheScenariosSeeWhatGoesWrong(t *testing.T) {
	t.Parallel()
	expect(t, measured(t, redirects, handwritten), map[string]float64{"leaked": 3})
	expect(t, measured(t, lateRefusals, handwritten), map[string]float64{"tokens": 50})
	if got := measured(t, outage, handwritten)["tokens"]; got <= 12 {
		t.Errorf("outage: got %v token requests, want more than 12", got)
	}
	if got := measured(t, processes, handwritten)["failed"]; got < 1 {
		t.Errorf("processes: got %v failures, want some", got)
	}
	if got := measured(t, revocation, xoauth2); got["failed"] < 1 || got["recovers"] != 0 {
		t.Errorf("revocation of a token that is kept: got %v failures, recovered %v", got["failed"], got["recovers"])
	}
}

// No peer is handicapped by the way it is used here: each has its requests
// accepted, bodies included.
func TestEveryPeerIsAccepted(t *testing.T) {
	t.Parallel()
	for _, p := range append(peers(), bare) {
		t.Run(p.name, func(t *testing.T) {
			u, err := newUploader(t.Context(), p, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer u.world.close()
			if _, err := u.accepted(&stream{size: 1 << 20}); err != nil {
				t.Error(err)
			}
			if got, most := u.world.tokenRequests(), 1; got > most {
				t.Errorf("%d token requests, want at most %d", got, most)
			}
		})
	}
}

func TestAStreamThatIsCutOrShiftedIsNotWhole(t *testing.T) {
	const size = 3 << 20
	all, _ := io.ReadAll(&stream{size: size, pieces: 16, between: func() {}})
	for name, body := range map[string][]byte{
		"cut":     all[:size-1],
		"shifted": append(slices.Clone(all[1:]), all[0]),
		"twice":   append(slices.Clone(all[:size/2]), all[:size/2]...),
	} {
		if a, _ := arrive(strings.NewReader(string(body))); a.whole(size) {
			t.Errorf("%s: counts as whole", name)
		}
	}
	if a, _ := arrive(strings.NewReader(string(all))); !a.whole(size) {
		t.Error("the whole does not count as whole")
	}
}

func TestASpentRefreshTokenEndsTheLogin(t *testing.T) {
	s := newServers()
	first := s.login()
	second, ok := s.grant(first)
	if !ok || !s.good(second.access) {
		t.Fatal("the first exchange failed")
	}
	if _, ok := s.grant(first); ok || s.good(second.access) {
		t.Error("a spent refresh token came again, and the login goes on")
	}
	if _, ok := s.grant(second.refresh); ok {
		t.Error("the next refresh token works after a reuse")
	}
}

func TestTheTableHasACellForEveryPeer(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), []string{"-quick", "-only", "redirects,hot,bodies 64"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	for i, line := range lines {
		if title := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|---"); title {
			t.Log(line)
		}
		if strings.Contains(line, "NaN") || strings.Contains(line, "||") || strings.Contains(line, "|  |  |") {
			t.Errorf("a cell is empty: %s", line)
		}
	}
	for _, p := range peers() {
		if !strings.Contains(out.String(), "| "+p.name+" |") || !strings.Contains(out.String(), "- "+p.name+": ") {
			t.Errorf("%s has no column, line or note", p.name)
		}
	}
}

func TestAWrongNameIsToldWithTheRightOnes(t *testing.T) {
	for _, args := range [][]string{{"-only", "strom"}, {"-peers", "oauth"}} {
		err := run(context.Background(), args, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), args[1]) || !strings.Contains(err.Error(), args[0]) {
			t.Errorf("%v: got %v", args, err)
		}
	}
}
