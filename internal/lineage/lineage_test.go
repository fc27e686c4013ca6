package lineage_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lineage"
)

const mine = lineage.Tolerance * 10 // the generation of what is known here

// generations are those of what the store has, from far below to far above.
var generations = []uint64{mine - lineage.Tolerance - 1, mine - lineage.Tolerance, mine - 1, mine, mine + 1, mine + lineage.Tolerance + 1}

// outcomes are those of what is known here, in the order of the tables' columns.
var outcomes = []lineage.Outcome{lineage.Saved, lineage.Untried, lineage.Refused, lineage.Unknown}

// check compares one cell: a row of a table has a letter for each of generations, k if
// what is known here is the newest.
func check(t *testing.T, name string, k lineage.Known, stored lineage.Record, row string) {
	t.Helper()
	k.Generation = mine
	for i, generation := range generations {
		stored.Generation = generation
		want := uint64(0)
		if row[i] == 'k' {
			want = max(mine, generation+1)
		}
		if got := k.Newest(stored); got != want {
			t.Errorf("%s: the store has %+v: got %d, want %d", name, stored, got, want)
		}
	}
}

// each calls fn with all values of what must not matter.
func each(fn func(outcome lineage.Outcome, ended, spent bool)) {
	for _, outcome := range outcomes {
		for n := range 4 {
			fn(outcome, n&1 > 0, n&2 > 0)
		}
	}
}

func TestOfAnotherLoginTheGreaterGenerationIsTheNewest(t *testing.T) {
	each(func(outcome lineage.Outcome, ended, spent bool) {
		for _, other := range []string{"", "over", "other"} {
			for _, endedThere := range []bool{false, true} {
				k := lineage.Known{Record: lineage.Record{Login: "own", Ended: ended}, Outcome: outcome, Spent: spent}
				check(t, fmt.Sprintf("%+v", k), k, lineage.Record{Login: other, Ended: endedThere}, "kkksss")
			}
		}
	})
}

// A token that came for a refresh token beats the news that this refresh token is dead.
func TestOfOneLoginTheGreaterGenerationIsTheNewestAndATokenBeatsTheRefusalOfItsForerunner(t *testing.T) {
	each(func(outcome lineage.Outcome, ended, spent bool) {
		for _, login := range []string{"", "own"} {
			for _, endedThere := range []bool{false, true} {
				k := lineage.Known{Record: lineage.Record{Login: login, Ended: ended}, Outcome: outcome, Spent: spent}
				for begins := range 2 {
					row := "kkksss"
					if endedThere && !ended && !spent && outcome != lineage.Saved {
						row = "kkkkss"
					}
					k.Begins = begins > 0 && outcome != lineage.Saved
					check(t, fmt.Sprintf("%+v", k), k, lineage.Record{Login: login, Ended: endedThere}, row)
				}
			}
		}
	})
}

// The lower half of the table.
func TestALoginReplacesWhatItFindsAndOnceLeftOverNothingThatMayBeLater(t *testing.T) {
	for login, rows := range map[string][2]string{ // left over, awaited
		"":      {"ksssss", "kkkkkk"},
		"over":  {"kkkkkk", "kkkkkk"},
		"other": {"ksssss", "kkkkkk"},
	} {
		each(func(outcome lineage.Outcome, ended, spent bool) {
			if outcome == lineage.Saved {
				return // it does not begin any more
			}
			for awaited, row := range rows {
				if login == "" && awaited > 0 && outcome == lineage.Unknown {
					row = "kkkkss"
				}
				k := lineage.Known{
					Record: lineage.Record{Login: "own", Ended: ended}, Outcome: outcome, Spent: spent,
					Begins: true, Over: "over", Awaited: awaited > 0,
				}
				for _, endedThere := range []bool{false, true} {
					check(t, fmt.Sprintf("%+v", k), k, lineage.Record{Login: login, Ended: endedThere}, row)
				}
				if k.Over = ""; login == "" { // no release has named a login yet
					check(t, fmt.Sprintf("%+v", k), k, lineage.Record{}, row)
				}
			}
		})
	}
}

func TestAnEmptyStoreHasNothingNewer(t *testing.T) {
	each(func(outcome lineage.Outcome, ended, spent bool) {
		for how := range 4 {
			k := lineage.Known{
				Record: lineage.Record{Generation: 1, Login: strings.Repeat("l", how&1), Ended: ended}, Outcome: outcome, Spent: spent,
				Begins: how&1 > 0 && outcome != lineage.Saved, Awaited: how&2 > 0,
			}
			if got := k.Newest(lineage.Record{}); got != 1 {
				t.Errorf("%+v: got %d, want 1", k, got)
			}
		}
	})
	if got := (lineage.Known{}).Newest(lineage.Record{}); got != 0 {
		t.Errorf("nothing is known: got %d, want 0", got)
	}
}

func TestWhatIsSavedUnderTheLockStandsAboveWhatItReplaces(t *testing.T) {
	stored := lineage.Record{Generation: 7, Login: "there"}
	for _, k := range []lineage.Known{
		{Record: lineage.Record{Generation: 5, Login: "own"}, Outcome: lineage.Untried, Begins: true, Over: "before", Awaited: true},
		{Record: lineage.Record{Generation: 5, Login: "own"}, Outcome: lineage.Unknown, Begins: true, Over: "there"},
		{Record: lineage.Record{Generation: 8, Login: "own"}, Outcome: lineage.Saved, Over: "before"},
	} {
		got := k.Above(stored, 0)
		if got.Generation != 8 || got.Outcome != k.Outcome || got.Over != "there" || got.Begins != k.Begins {
			t.Errorf("%+v: got %+v, want it in generation 8, over the store's login", k, got)
		}
	}
}

func TestADoubtLastsFromTheFirstSaveAndNotForEver(t *testing.T) {
	const now = 1_800_000_000_000
	for lost, want := range map[int64]int64{ // what the store says: what is saved again says
		0: now, now - lineage.Doubt: now, now + lineage.Doubt: now,
		now - lineage.Doubt + 1: now - lineage.Doubt + 1, now: now, now + lineage.Doubt - 1: now + lineage.Doubt - 1,
	} {
		stored := lineage.Record{Generation: 1, Lost: lost}
		k := lineage.Known{Record: lineage.Record{Generation: 2}, Outcome: lineage.Saved}
		got := k.SavedAgain(now-2*lineage.Doubt).Above(stored, now) // noticed long ago
		if got.Lost != want || got.Outcome != lineage.Untried || !got.Doubtful(now) {
			t.Errorf("the store says %d: got %+v, want %d", lost, got, want)
		}
	}
	over := lineage.Record{Generation: 1, Lost: now - lineage.Doubt}
	next := lineage.Known{Record: lineage.Record{Generation: 2, Lost: over.Lost}, Outcome: lineage.Untried}
	if got := next.Above(over, now); got.Doubtful(now) {
		t.Errorf("what follows a record whose doubt is over: got %+v, want no doubt", got)
	}
}

// A login and the result of an exchange have not been in the store before.
func TestWhatIsSavedForTheFirstTimeIsNotDoubtfulWhateverItReplaces(t *testing.T) {
	const now = 1_800_000_000_000
	for _, lost := range []int64{0, now - 2*lineage.Doubt, now - 1} {
		for _, begins := range []bool{true, false} {
			k := lineage.Known{Record: lineage.Record{Generation: 2, Login: "own"}, Outcome: lineage.Untried, Begins: begins}
			if got := k.Above(lineage.Record{Generation: 1, Lost: lost}, now); got.Lost != 0 {
				t.Errorf("Begins: %t, the store says %d: got %d, want 0", begins, lost, got.Lost)
			}
		}
	}
}

func TestALossShowsInWhatIsSavedOrHasFollowedWhatTheStoreLacks(t *testing.T) {
	each(func(outcome lineage.Outcome, ended, spent bool) {
		for begins := range 2 {
			for stored := range uint64(3) {
				k := lineage.Known{Record: lineage.Record{Generation: 3, Ended: ended}, Outcome: outcome, Spent: spent}
				k.Begins = begins > 0 && outcome != lineage.Saved
				want := outcome == lineage.Saved || outcome != lineage.Refused && !k.Begins && stored < 2
				if got := k.Misses(lineage.Record{Generation: stored}); got != want {
					t.Errorf("%+v, the store has %d: got %t, want %t", k, stored, got, want)
				}
			}
		}
	})
}

// Another process may know what has followed the record before.
func TestWhatHasTheRefreshTokenOfALostRecordStandsNoHigher(t *testing.T) {
	for spent, want := range map[bool]uint64{true: 2, false: 3} {
		k := lineage.Known{Record: lineage.Record{Generation: 3}, Outcome: lineage.Untried, Spent: spent}
		if got := k.SavedAgain(1).SavedAgain(1); got.Generation != want {
			t.Errorf("Spent: %t: got %+v, want generation %d", spent, got, want)
		}
	}
}
