import { describe, expect, test } from 'vitest';
import { describeAnswer, excerpt } from '../../src/patroni/answer-text.ts';

// What proxies and other versions of pg-backup-api may say of an error.

describe('of an error is told', () => {
  test.each([
    ['the text of a JSON string', '"no, thanks"', 'no, thanks'],
    ['a message', '{"status": 500, "message": "kaputt"}', 'kaputt'],
    ['a description', '{"description": "kaputt"}', 'kaputt'],
    ['a detail', '{"title": "Oh", "detail": "kaputt"}', 'kaputt'],
    ['a title', '{"title": "kaputt"}', 'kaputt'],
    ['the error before all others', '{"message": "m", "title": "t", "error": "kaputt"}', 'kaputt'],
    ['the first that is a text, and not empty', '{"error": {"code": 7}, "message": "", "detail": "kaputt"}', 'kaputt'],
    ['a list as it is', '["a",  "b"]', '["a", "b"]'],
    ['a text as it is', 'a < b & c', 'a < b & c'],
    [
      'a page without its title, scripts and styles',
      page('<p>It&apos;s</p> &lt;b&gt; &AMP; &quot;c&quot;'),
      `It&apos;s <b> & "c"`,
    ],
    ['the title of a page without text', page(''), 'The title'],
    ['a page that begins with its head', '<head></head>gone', 'gone'],
    ['a page that begins with its title', ' <TITLE>no</TITLE>gone', 'gone'],
    ['XHTML', '<?xml version="1.0"?><html>gone</html>', 'gone'],
    ['nothing of nothing', '', ''],
  ])('%s', (_what, body, said) => {
    const answer = { status: 500, reason: 'Oops', location: null, body };
    expect(describeAnswer(answer)).toBe(said === '' ? 'HTTP 500 Oops' : `HTTP 500 Oops: ${said}`);
  });
});

function page(body: string): string {
  const head = '<title lang="en">The title</title><style>p { }</style><script>if (a < b) alert("x")</script>';
  return `\n<!doctype html>\n<html><head>${head}</head><body>${body}</body></html>`;
}

test('only a redirect has a place to go, and no password with it', () => {
  const location = '//me:pw@h/x?to=a@b';
  const answer = { reason: '', location, body: '' };
  expect(describeAnswer({ status: 308, ...answer })).toBe('HTTP 308: redirects to //h/x?to=a@b');
  expect(describeAnswer({ status: 201, ...answer })).toBe('HTTP 201');
});

test('what was not expected is quoted when it is no JSON', () => {
  expect(excerpt('{"a":  1}')).toBe('{"a": 1}');
  expect(excerpt('"a"')).toBe('"a"');
  expect(excerpt('a\tb')).toBe('"a b"');
  expect(excerpt('')).toBe('an empty body');
});
