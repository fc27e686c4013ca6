package storetest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func openMemory(*testing.T) func() tokensource.Store {
	memory := new(storetest.Memory)
	return func() tokensource.Store { return memory }
}

func TestMemoryIsAStore(t *testing.T) {
	storetest.Run(t, openMemory)
}

func TestEncryptedMemoryIsAStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) func() tokensource.Store {
		memory := new(storetest.Memory)
		keys := [][]byte{[]byte(strings.Repeat("k", 32))}
		return func() tokensource.Store { return &tokensource.Encrypted{Store: memory, Keys: keys} }
	})
}

func TestAPrintedMemoryShowsNoValue(t *testing.T) {
	memory := new(storetest.Memory)
	err := memory.Update(t.Context(), "key", func(_ []byte, save func([]byte) error) error {
		return save([]byte("secret"))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, memory); got != "memory of 1 keys" {
			t.Errorf("%s: got %q; want the number of keys", verb, got)
		}
	}
}
