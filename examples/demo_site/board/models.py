"""What the board keeps in the database."""

from django.db import models


class Note(models.Model):
    author = models.CharField(max_length=40)
    text = models.CharField(max_length=280)
    server = models.CharField(max_length=64)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.author}: {self.text}"
