package attest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/usher-dps/usher/internal/standin/dpssim/model"
)

const wrapKeySize = 16 // AES-128, the inner wrap

// CheckEndorsementKey checks that the text is the public part of a key that others can encrypt to.
func CheckEndorsementKey(text string) error {
	_, err := parseTPMKey("endorsementKey", text)
	return err
}

// WrapForTPM encrypts an HMAC key so that only the TPM with these endorsement and storage root keys can import it. A
// client passes the parts of the result, one after the other, to ActivateCredential and Import:
//
//	TPM2B_ID_OBJECT          the inner AES key, for the TPM that holds both keys
//	TPM2B_ENCRYPTED_SECRET   its seed, for the endorsement key
//	TPM2B_PRIVATE            the HMAC key, wrapped twice
//	TPM2B_ENCRYPTED_SECRET   the seed of the outer wrap, for the storage root key
//	TPM2B_PUBLIC             the public part of the HMAC key
//	TPM2B_DATA               a URI, empty
func WrapForTPM(keys model.TPM, key []byte) ([]byte, error) {
	endorsement, err := parseTPMKey("endorsementKey", keys.EndorsementKey)
	if err != nil {
		return nil, err
	}
	storage, err := parseTPMKey("storageRootKey", keys.StorageRootKey)
	if err != nil {
		return nil, err
	}
	storageName, err := tpm2.ObjectName(storage.public)
	if err != nil {
		return nil, fmt.Errorf("storageRootKey: %w", err)
	}

	wrapKey := make([]byte, wrapKeySize)
	obfuscation := make([]byte, sha256.Size)
	_, _ = rand.Read(wrapKey)
	_, _ = rand.Read(obfuscation)

	identity, identitySecret, err := tpm2.CreateCredential(rand.Reader, endorsement.key, storageName.Buffer, wrapKey)
	if err != nil {
		return nil, fmt.Errorf("endorsementKey: %w", err)
	}

	public := hmacPublic(obfuscation, key)
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, err
	}
	sensitive := tpm2.Marshal(tpm2.New2B(tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgKeyedHash,
		SeedValue:     tpm2.TPM2BDigest{Buffer: obfuscation},
		Sensitive: tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgKeyedHash,
			&tpm2.TPM2BSensitiveData{Buffer: key}),
	}))
	inner, err := wrapInner(wrapKey, name.Buffer, sensitive)
	if err != nil {
		return nil, err
	}
	seed, seedSecret, err := storage.key.Encapsulate(rand.Reader, "DUPLICATE")
	if err != nil {
		return nil, fmt.Errorf("storageRootKey: %w", err)
	}
	duplicate, err := wrapOuter(storage.key, seed, name.Buffer, inner)
	if err != nil {
		return nil, fmt.Errorf("storageRootKey: %w", err)
	}
	return slices.Concat(
		tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: identity}),
		tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: identitySecret}),
		tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: duplicate}),
		tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: seedSecret}),
		tpm2.Marshal(tpm2.New2B(public)),
		tpm2.Marshal(tpm2.TPM2BData{}),
	), nil
}

// hmacPublic is the public part of an HMAC key; its unique field binds it to the secret part.
func hmacPublic(obfuscation, key []byte) tpm2.TPMTPublic {
	unique := sha256.Sum256(slices.Concat(obfuscation, key))
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{SignEncrypt: true, UserWithAuth: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{
				Scheme: tpm2.TPMAlgHMAC,
				Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC,
					&tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: unique[:]}),
	}
}

// wrapInner is the inner duplication wrapper of the TPM specification, part 1, "Inner Duplication Wrapper", with
// AES-128 in CFB mode.
func wrapInner(key, name, sensitive []byte) ([]byte, error) {
	integrity := sha256.Sum256(slices.Concat(sensitive, name))
	return encryptCFB(key, slices.Concat(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: integrity[:]}), sensitive))
}

// wrapOuter is the outer wrapper. [tpm2.CreateDuplicate] makes one only for data without an inner wrapper.
func wrapOuter(parent tpm2.LabeledEncapsulationKey, seed, name, inner []byte) ([]byte, error) {
	hash, err := parent.NameAlg().Hash()
	if err != nil {
		return nil, err
	}
	bits, err := parent.SymmetricParameters().KeyBits.AES()
	if err != nil {
		return nil, err
	}
	encrypted, err := encryptCFB(tpm2.KDFa(hash, seed, "STORAGE", name, nil, int(*bits)), inner)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(hash.New, tpm2.KDFa(hash, seed, "INTEGRITY", nil, nil, hash.Size()*8))
	mac.Write(encrypted)
	mac.Write(name)
	return append(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: mac.Sum(nil)}), encrypted...), nil
}

func encryptCFB(key, plain []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	encrypted := make([]byte, len(plain))
	//lint:ignore SA1019 the TPM specification requires CFB; integrity is checked separately
	cipher.NewCFBEncrypter(block, make([]byte, block.BlockSize())).XORKeyStream(encrypted, plain)
	return encrypted, nil
}

type tpmKey struct {
	public *tpm2.TPMTPublic
	key    tpm2.LabeledEncapsulationKey
}

// parseTPMKey reads the TPM2B_PUBLIC of a key that others can encrypt to: RSA or elliptic curve, protecting with AES in
// CFB mode.
func parseTPMKey(field, text string) (tpmKey, error) {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return tpmKey{}, fmt.Errorf("%s is not base64", field)
	}
	wrapped, err := tpm2.Unmarshal[tpm2.TPM2BPublic](data)
	if err != nil {
		return tpmKey{}, fmt.Errorf("%s is not a TPM2B_PUBLIC: %w", field, err)
	}
	public, err := wrapped.Contents()
	if err != nil {
		return tpmKey{}, fmt.Errorf("%s is not a TPM2B_PUBLIC: %w", field, err)
	}
	key, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return tpmKey{}, fmt.Errorf("%s: %w", field, err)
	}
	if symmetric := key.SymmetricParameters(); symmetric.Algorithm != tpm2.TPMAlgAES {
		return tpmKey{}, fmt.Errorf("%s does not protect other keys with AES, so it is no endorsement or storage key", field)
	}
	if _, err := key.NameAlg().Hash(); err != nil {
		return tpmKey{}, fmt.Errorf("%s: %w", field, err)
	}
	return tpmKey{public, key}, nil
}
