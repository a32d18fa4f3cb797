import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { classifyHateSpeech } from '../../../worker/workflows/content-moderation/hate-speech.js'
import { classifySpam } from '../../../worker/workflows/content-moderation/spam.js'
import { fold } from '../../../worker/workflows/content-moderation/text.js'

describe('spam', () => {
	it.each([
		'BUY NOW!!! Cheap watches at http://bit.ly/w4tch',
		'You have won! Click here to claim your prize',
		'Double your bitcoin, limited time, risk free',
		'M4ke m0ney f@st with this miracle, act now',
		'C l i c k  here, e a s y  money',
		'Followers followers followers followers followers at follow-me.top',
		'See a.example.com: http://a.top http://b.top http://c.top, special offer',
		'Make money fast. Make money fast. Make money fast.',
	])('is seen in: %s', (post) => {
		const { isSpam, score, reasons } = classifySpam(post)
		expect(isSpam).toBe(true)
		expect(score).toBeGreaterThanOrEqual(0.5)
		expect(reasons.length).toBeGreaterThan(0)
	})

	it.each([
		'',
		'I wrote about it here: https://blog.example.com/post',
		'Three sources: https://a.example.com, https://b.example.com and https://c.example.com',
		'WE WON THE CUP AFTER ALL THESE YEARS!!!',
		'My shop has a special offer this week, https://shop.example.com',
		'no no no no no no',
		'The winner gets a gift card',
		'mail me at jane@example.top',
	])('is not seen in: %s', (post) => expect(classifySpam(post).isSpam).toBe(false))

	it('names every sign', () => {
		expect(classifySpam('CLICK HERE FOR A DISCOUNT!!! http://bit.ly/x').reasons).toEqual([
			'promotional phrases: click here, discount',
			'a link',
			'a link of a kind that spammers like',
			'capital letters throughout',
			'strings of signs',
		])
	})

	it('never comes from one kind of sign alone, except the phrases', () => {
		expect(classifySpam('!!!!!!!!!! '.repeat(50)).isSpam).toBe(false)
		expect(classifySpam('https://a.example.com '.repeat(3)).isSpam).toBe(false)
		expect(classifySpam('LOUD AND CLEAR, LOUD AND CLEAR EVERYBODY').isSpam).toBe(false)
	})

	it('copes with a post of very many different words', () => {
		const words = Array.from({ length: 200_000 }, (_, i) => `w${i.toString(36).replace(/\d/g, 'x')}`)
		expect(classifySpam(words.join(' ')).isSpam).toBe(false)
	})
})

describe('classifiers', () => {
	it('give a score from 0 to 1 for any text, and none for an innocent one', () => {
		fc.assert(
			fc.property(fc.string({ unit: 'binary' }), (post) => {
				for (const { score } of [classifySpam(post), classifyHateSpeech(post)]) {
					expect(score).toBeGreaterThanOrEqual(0)
					expect(score).toBeLessThanOrEqual(1)
				}
			}),
		)
		expect(classifySpam('Good morning').score).toBe(0)
		expect(classifyHateSpeech('Good morning').score).toBe(0)
	})
})

describe('folding', () => {
	it('points every folded character back to where it came from', () => {
		const folded = fold('a😀ｂ\u200b⑩c')
		expect(folded.text).toBe('a😀b10c')
		expect(Array.from('a--b10c', (_, i) => [folded.startOf(i), folded.endOf(i)])).toEqual([
			[0, 1],
			[1, 3],
			[1, 3],
			[3, 4],
			[5, 6],
			[5, 6],
			[6, 7],
		])
	})

	it('makes dashes, spaces and digits of every script plain', () => {
		expect(fold('٣–۴—५\u00a0−9').text).toBe('3-4-5 -9')
	})

	it('gives the folds put together for texts put together', () => {
		const text = fc.string({ unit: 'grapheme' })
		fc.assert(
			fc.property(text, text, (one, other) => {
				expect(fold(one + other).text).toBe(fold(one).text + fold(other).text)
			}),
		)
	})
})
