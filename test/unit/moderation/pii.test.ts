import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isCardNumber, passesLuhn } from '../../../worker/workflows/content-moderation/pii/card.js'
import { hasValidCheckDigits, ibanRemainder } from '../../../worker/workflows/content-moderation/pii/iban.js'
import { findPii } from '../../../worker/workflows/content-moderation/pii/pattern-pii-detector.js'
import { countByKind, redact } from '../../../worker/workflows/content-moderation/pii/redact.js'

const DIGITS = '0123456789'.split('')
const redacted = (post: string) => redact(post, findPii(post))

describe('e-mail addresses', () => {
	it.each([
		['jane@example.com', '[email]'],
		['Jane.Doe+forum@mail.example.co.uk!', '[email]!'],
		['<jane@example.com>, "john@example.org"', '<[email]>, "[email]"'],
		["'o'brien@example.com'", "'[email]'"],
		['mailto:jane@example.com?subject=hi', 'mailto:[email]?subject=hi'],
		['jürgen@müller.example', '[email]'],
		['jane@xn--mller-kva.xn--p1ai', '[email]'],
		['jane (at) example (dot) com', '[email]'],
		['ｊａｎｅ＠ｅｘａｍｐｌｅ．ｃｏｍ', '[email]'],
		['jane\u200b@\u200bexample.com', '[email]'],
		['😀jane@example.com😀', '😀[email]😀'],
	])('are redacted: %s', (post, expected) => expect(redacted(post)).toBe(expected))

	it.each([
		'@jane',
		'jane@',
		'jane@localhost',
		'@ example.com',
		'a @ b',
		'look at example.com',
		'v1.2@latest',
	])('are not seen in: %s', (post) => expect(findPii(post)).toEqual([]))
})

describe('phone numbers', () => {
	it.each([
		['+442079460958', '[phone]'],
		['+44 20 7946 0958.', '[phone].'],
		['+49 (0)30 901820', '[phone]'],
		['+1 (212) 555-0187', '[phone]'],
		['+1(212)555-0187', '[phone]'],
		['+1-212-555-0187 x12', '[phone] x12'],
		['+33 6 12 34 56 78', '[phone]'],
		['0049 30 901820', '[phone]'],
		['(212) 555-0187', '[phone]'],
		['212-555-0187', '[phone]'],
		['212.555.0187', '[phone]'],
		['212 555 0187', '[phone]'],
		['1-800-555-0199 ext. 3', '[phone]'],
		['212–555–0187', '[phone]'],
		['020 7946 0958', '[phone]'],
		['(030) 901 820 11', '[phone]'],
		['06 12 34 56 78', '[phone]'],
		['call 2125550187', 'call [phone]'],
		['WhatsApp: 555-0187', 'WhatsApp: [phone]'],
		['tel. 12 34 56 78', 'tel. [phone]'],
		['٠٢٠ ٧٩٤٦ ٠٩٥٨', '[phone]'],
		['+44 20 7946 0958 or 212-555-0187', '[phone] or [phone]'],
		['To order, 212-555-0187', 'To order, [phone]'],
	])('are redacted: %s', (post, expected) => expect(redacted(post)).toBe(expected))

	it.each([
		'2125550187',
		'order no. 212-555-0187',
		'Order #212-555-0187',
		'ticket 212-555-0187',
		'ISBN 978-3-16-148410-0',
		'2024-05-17 10:30:00',
		'01-02-2024 10',
		'01.02.2024',
		'192.168.100.100',
		'0.123 456 789',
		'pi is 3.14159265358979',
		'1 000 000 000 people',
		'$ 1,250,000.00',
		'+1000000000',
		'x212-555-0187',
		'98212-555-0187',
		'212-555-0187-44',
		'call me 2024-05-17',
	])('are not seen in: %s', (post) => expect(findPii(post)).toEqual([]))
})

describe('card numbers', () => {
	it.each([
		['4111111111111111', '[card]'],
		['4111 1111 1111 1111', '[card]'],
		['4111-1111-1111-1111', '[card]'],
		['3782 822463 10005', '[card]'],
		['5555 5555 5555 4444 12/27 123', '[card] 12/27 123'],
		['2 x 4111 1111 1111 1111', '2 x [card]'],
		['４１１１ １１１１ １１１１ １１１１', '[card]'],
		['4111 1111 1111 1111 5555 5555 5555 4444', '[card] [card]'],
	])('are redacted: %s', (post, expected) => expect(redacted(post)).toBe(expected))

	it.each([
		'4111 1111 1111 1112',
		'0000 0000 0000 0000',
		'1234 5678 9012 3452',
		'3.4111111111111111',
		'4111111111111111a',
		'a4111111111111111',
		'41111111111111111111111',
	])('are not seen in: %s', (post) => expect(findPii(post)).toEqual([]))

	it('have exactly one check digit for any other digits', () => {
		fc.assert(
			fc.property(digits(11, 18), (payload) => {
				const valid = DIGITS.filter((check) => passesLuhn(payload + check))
				expect(valid).toHaveLength(1)
			}),
		)
	})

	it('fail the check when any one digit is wrong', () => {
		fc.assert(
			fc.property(cardNumber(), fc.nat(15), fc.integer({ min: 1, max: 9 }), (number, at, change) => {
				const wrong = (Number(number[at]) + change) % 10
				expect(passesLuhn(number.slice(0, at) + wrong + number.slice(at + 1))).toBe(false)
			}),
		)
	})

	it('are found with any of the usual separators between groups of four', () => {
		fc.assert(
			fc.property(cardNumber(), fc.constantFrom('', ' ', '-', '\u00a0', '–'), (number, separator) => {
				expect(isCardNumber(number)).toBe(true)
				expect(redacted(`pay ${number.match(/.{4}/g)?.join(separator)} now`)).toBe('pay [card] now')
			}),
		)
	})
})

describe('IBANs', () => {
	it.each([
		['DE89370400440532013000', '[iban]'],
		['DE89 3704 0044 0532 0130 00', '[iban]'],
		['gb82 west 1234 5698 7654 32', '[iban]'],
		['GB82 WEST 1234 5698 7654 32 please', '[iban] please'],
		['IBAN:NO93-8601-1117-947.', 'IBAN:[iban].'],
		['MT84MALT011000012345MTLCAST001S', '[iban]'],
	])('are redacted: %s', (post, expected) => expect(redacted(post)).toBe(expected))

	it.each([
		'DE88 3704 0044 0532 0130 00',
		'ZZ89370400440532013000',
		'DE8937040044053201300',
		'DE893704004405320130001',
		'XDE89370400440532013000',
	])('are not seen in: %s', (post) => expect(findPii(post)).toEqual([]))

	it('are found for any account once the check digits are right, and lost when they are wrong', () => {
		fc.assert(
			fc.property(
				digits(18, 18),
				fc.boolean(),
				fc.integer({ min: 1, max: 96 }),
				(account, grouped, error) => {
					const check = 98 - ibanRemainder(`${account}DE00`)
					const write = (value: number) => {
						const number = `DE${String(value).padStart(2, '0')}${account}`
						return grouped ? (number.match(/.{1,4}/g)?.join(' ') ?? '') : number
					}
					expect(redacted(`to ${write(check)} please`)).toBe('to [iban] please')
					const wrong = ((check + error - 2) % 97) + 2
					expect(hasValidCheckDigits(write(wrong).replaceAll(' ', ''))).toBe(false)
				},
			),
		)
	})
})

describe('redaction', () => {
	it('leaves no personal data that the detector would find', () => {
		fc.assert(
			fc.property(messyPost(), (post) => {
				expect(findPii(redacted(post))).toEqual([])
			}),
			{ numRuns: 3000 },
		)
	})

	it('leaves everything else as it was', () => {
		fc.assert(
			fc.property(messyPost(), (post) => {
				const findings = findPii(post)
				const kept = findings.map(({ start }, i) => post.slice(findings[i - 1]?.end ?? 0, start))
				const rest = post.slice(findings.at(-1)?.end ?? 0)
				expect(redact(post, findings)).toBe(
					findings.map(({ kind }, i) => `${kept[i]}[${kind}]`).join('') + rest,
				)
			}),
		)
	})

	it('reports findings in the order of the text and without overlaps', () => {
		fc.assert(
			fc.property(messyPost(), (post) => {
				let position = 0
				for (const { start, end } of findPii(post)) {
					expect(start).toBeGreaterThanOrEqual(position)
					expect(end).toBeGreaterThan(start)
					position = end
				}
				expect(position).toBeLessThanOrEqual(post.length)
			}),
		)
	})

	it('finds a number that only stands out once its neighbour is gone', () => {
		expect(redacted('0049 123456 12345678,4111111111111111')).toBe('[phone],[card]')
	})

	it('gives up a line in which every look uncovers a little more', () => {
		const woven = '0049 123456 12345678,4111111111111111 '.repeat(2500)
		const post = `first jane@example.com\n${woven}\nlast 212-555-0187`
		expect(redacted(post)).toBe('first [email]\n[personal data]\nlast [phone]')
	})

	it('covers overlapping findings under the label of the first', () => {
		const findings = [
			{ kind: 'phone', start: 4, end: 9 },
			{ kind: 'address', start: 2, end: 6 },
		] as const
		expect(redact('0123456789', findings)).toBe('01[address]9')
	})

	it('counts by kind', () => {
		expect(countByKind(findPii('a@example.com b@example.com 212-555-0187'))).toEqual({
			email: 2,
			phone: 1,
		})
	})

	it.each([
		['digits', '1 '.repeat(100_000)],
		['dots', 'a.'.repeat(100_000)],
		['at signs', 'a@'.repeat(100_000)],
		['long labels', `a@${'b'.repeat(60)}.`.repeat(3000)],
		['addresses', 'a@example.com '.repeat(10_000)],
		['phone-like groups', '+12 34 '.repeat(30_000)],
		['context words', 'call '.repeat(40_000)],
	])('takes time in proportion to a hostile post of %s', (_, post) => {
		const startedAt = performance.now()
		findPii(post)
		expect(performance.now() - startedAt).toBeLessThan(3000)
	})
})

function digits(least: number, most: number): fc.Arbitrary<string> {
	return fc.string({ unit: fc.constantFrom(...DIGITS), minLength: least, maxLength: most })
}

/** Sixteen digits of a Visa card, the last one its check digit. */
function cardNumber(): fc.Arbitrary<string> {
	return digits(14, 14).map((payload) => {
		const check = DIGITS.find((digit) => passesLuhn(`4${payload}${digit}`))
		return `4${payload}${check}`
	})
}

/** Personal data, fragments of it, separators, labels and any other text, in any order. */
function messyPost(): fc.Arbitrary<string> {
	const pieces = fc.oneof(
		{
			weight: 3,
			arbitrary: fc.constantFrom(
				'jane@example.com',
				'+44 20 7946 0958',
				'(212) 555-0187',
				'4111 1111 1111 1111',
				'GB82 WEST 1234 5698 7654 32',
				'06 12 34 56 78',
			),
		},
		{
			weight: 3,
			arbitrary: fc.constantFrom(
				' ',
				'-',
				'.',
				'+',
				'(',
				')',
				'/',
				'@',
				'[',
				']',
				'00',
				'+1',
				'212',
				'555-',
				'#',
				'\u200b',
				'⑩',
				'＠',
			),
		},
		{
			weight: 2,
			arbitrary: fc.constantFrom(
				'call ',
				'order no. ',
				'phone',
				'[phone]',
				'[email]',
				'ext. 3',
				' x12',
				'a',
				'DE89',
				'www.',
				'.com',
			),
		},
		{ weight: 2, arbitrary: digits(1, 17) },
		{ weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 6 }) },
	)
	return fc.array(pieces, { maxLength: 14 }).map((list) => list.join(''))
}
